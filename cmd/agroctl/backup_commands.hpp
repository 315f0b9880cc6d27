// agroctl block dump and load of backups: what both need to know of the command line.
#pragma once

#include "agroctl/image_file.hpp"
#include "agroctl/program.hpp"

namespace agro {

struct BackupDumpOptions {
  std::string volume;  // VOLUME@SNAPSHOT
  std::string file;
  std::string from;  // a snapshot's name; empty: all
  bool resume = false;
  bool progress = false;
};

struct BackupLoadOptions {
  std::string volume;
  std::optional<std::uint64_t> size;  // of a new volume
  bool resume = false;
  bool progress = false;
};

Task<void> dump_backup(Session& session, BackupDumpOptions options);
/// Shape: nothing was taken from `source` yet.
Task<void> load_backup(Session& session, ImageSource& source, BackupLoadOptions options);

}  // namespace agro

// The real disk: direct writes and syncs on worker threads, reads through the page cache.
//
// Invariants: a file's descriptors stay open until its last call has ended; a name that open() or
// write_file() made is durable when they return.
// Threading: one loop calls; workers do what blocks. Destroy the disk before its io_context.
// Choices, measured on the development machine (docs/formats/store.md, "Disk access"):
// - Writes are O_DIRECT where the file system takes it (else buffered). A group of writes and its
//   sync is one trip to a worker.
// - Reads are buffered preads with readahead off; try_read() is preadv2(RWF_NOWAIT): 1.4 us per 4 KiB,
//   where mincore + memcpy from a mapping takes 1.5 us and can end in SIGBUS on a bad sector.
#pragma once

#include <memory>

#include "base/disk.hpp"

namespace agro {

class SystemDisk final : public Disk {
 public:
  explicit SystemDisk(asio::io_context& loop);
  ~SystemDisk() override;

  Task<std::unique_ptr<File>> open(std::string path, OpenOptions options) override;
  Task<void> make_directories(std::string path) override;
  Task<std::vector<std::string>> list(std::string path) override;
  Task<void> remove(std::string path) override;
  Task<std::string> read_file(std::string path) override;
  Task<void> write_file(std::string path, std::string contents) override;
  Task<std::uint64_t> free_space(std::string directory) override;

  struct Workers;

 private:
  Task<std::unique_ptr<File>> open_past_cache(std::string path, OpenOptions options);
  /// Made at first use: many a loop has nothing on disks.
  const std::shared_ptr<Workers>& workers();

  asio::io_context& loop_;
  std::shared_ptr<Workers> workers_;
};

}  // namespace agro

// Backups on their way: changed ranges into a backup file, its records into a device; several at once.
#pragma once

#include "agroctl/backup_file.hpp"
#include "agroctl/transfer.hpp"
#include "block/snapshot_difference.hpp"

namespace agro {

/// What `changes` tells, in order, from where `writer` stands. The end's record is left to the caller.
/// All references outlive it.
std::unique_ptr<Transfer> make_backup_dump(BlockDevice& device, SnapshotDifference& changes, BackupWriter& writer,
                                           Progress& progress);
/// Records to device. What is beyond the end of the volume that was dumped becomes zeros; with `fills_gaps`,
/// all that the file does not name.
std::unique_ptr<Transfer> make_backup_load(BlockDevice& device, BackupReader& reader, bool fills_gaps,
                                           Progress& progress);

}  // namespace agro

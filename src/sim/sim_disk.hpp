// A node's disk in memory: knows what is synced, crashes, and fails on demand.
//
// Invariants: a crash keeps, drops or tears (at 512 bytes) each write and resize that no successful
// sync() covered, each on its own; what a sync covered stays. Pages that are all zero take no memory.
// The same seed and the same calls give the same bytes.
// Threading: one loop.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/clock.hpp"
#include "base/disk.hpp"
#include "base/random.hpp"

namespace agro {

/// What goes wrong with one file until the fault is taken back.
struct SimFault {
  bool fail_reads = false;   // io_error
  bool fail_writes = false;  // io_error; part of the write may have reached the disk
  bool fail_syncs = false;   // io_error; nothing became durable
};

struct SimDiskOptions {
  Duration latency_min{0};
  Duration latency_max{0};
  /// A write, or what a resize adds, beyond this many bytes in all files is out_of_space.
  std::uint64_t capacity = UINT64_MAX;
};

class SimDisk final : public Disk {
 public:
  SimDisk(Clock& clock, Random random, SimDiskOptions options = {});
  ~SimDisk() override;

  Task<std::unique_ptr<File>> open(std::string path, OpenOptions options) override;
  Task<void> make_directories(std::string path) override;
  Task<std::vector<std::string>> list(std::string path) override;
  Task<void> remove(std::string path) override;
  Task<std::string> read_file(std::string path) override;
  Task<void> write_file(std::string path, std::string contents) override;

  /// Power loss at this instant. Open handles fail with `closed` from now on, also the calls under
  /// way; the files can be opened again.
  void crash(Random& random);
  /// kill -9: handles fail as after a crash, but what was written stays.
  void kill();

  void set_options(SimDiskOptions options);
  /// Replaces the fault of a file; one that is not open yet too.
  void set_fault(const std::string& path, SimFault fault);
  /// Flips bits of a byte where it is stored. Shape: the file exists and reaches that far.
  void flip(const std::string& path, std::uint64_t offset, std::byte mask = std::byte{0xFF});
  /// The same below the page cache: reads see the old bytes, as long as the page stays in it, and
  /// only File::read_stored() sees what the disk holds. A crash empties the cache.
  void rot(const std::string& path, std::uint64_t offset, std::byte mask = std::byte{0xFF});
  /// Cuts a file, durably. Shape: it exists.
  void truncate(const std::string& path, std::uint64_t size);
  /// Shape: the file exists.
  std::uint64_t size_of(const std::string& path) const;
  std::string contents(const std::string& path, std::uint64_t offset, std::uint64_t size) const;
  bool exists(const std::string& path) const;

  std::uint64_t sync_count() const;
  std::uint64_t write_count() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace agro

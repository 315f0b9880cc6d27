// A node's disk in memory: knows what is synced, crashes, and fails on demand.
//
// Invariants: a crash keeps, drops or tears (at 512 bytes) each write, resize and allocate that no
// successful sync() covered, each on its own; what a sync covered stays. Pages that are all zero take no memory.
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
  std::uint32_t slowness = 1;  // latencies are so many times as long
  /// A write, or what a resize or allocate adds, beyond this many bytes in all files is out_of_space.
  std::uint64_t capacity = UINT64_MAX;
};

/// What goes wrong with a disk by chance, in parts per million of the calls on open files.
struct SimDiskFaults {
  std::uint32_t read_error_ppm = 0;   // as SimFault, once
  std::uint32_t write_error_ppm = 0;
  std::uint32_t sync_error_ppm = 0;
  std::uint32_t misdirected_read_ppm = 0;
  std::uint32_t misdirected_write_ppm = 0;
  std::uint32_t stale_read_ppm = 0;
  /// Syncs succeed and make nothing durable, so that a crash may take what was acknowledged.
  bool lying_sync = false;
};

/// What a firmware gets wrong once, and reports as success.
enum class SimMishap : std::uint8_t {
  misdirected_read,   // of another place in the file
  misdirected_write,  // to another place in the file; where it belongs, the old bytes stay
  stale_read,         // of what was there before the last write
};

/// How often what went wrong.
struct SimDiskCounts {
  std::uint64_t read_errors = 0;
  std::uint64_t write_errors = 0;
  std::uint64_t sync_errors = 0;
  std::uint64_t full = 0;  // out_of_space
  std::uint64_t misdirected_reads = 0;
  std::uint64_t misdirected_writes = 0;
  std::uint64_t stale_reads = 0;
  std::uint64_t lies = 0;
  std::uint64_t stalls = 0;
  std::uint64_t flips = 0;  // of flip() and rot()
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
  Task<std::uint64_t> free_space(std::string directory) override;

  /// Power loss at this instant. Open handles fail with `closed` from now on, also the calls under
  /// way; the files can be opened again.
  void crash(Random& random);
  /// kill -9: handles fail as after a crash, but what was written stays.
  void kill();
  /// Another disk is in its place, an empty one: as a crash, and nothing of the files is left.
  void replace();
  /// What was written reaches the platter, synced or not; with lying syncs this is all that ever does.
  void write_back();
  /// While set, every call fails with `closed`: what unwinds after a death can do no harm.
  void set_detached(bool detached);

  void set_options(SimDiskOptions options);
  /// Replaces the fault of a file; one that is not open yet too.
  void set_fault(const std::string& path, SimFault fault);
  void set_faults(SimDiskFaults faults);
  const SimDiskFaults& faults() const;
  /// The next call on the file that can have this mishap has it. Shape: the file exists.
  void arm(const std::string& path, SimMishap mishap);
  /// No call ends before so much time has passed.
  void stall_for(Duration duration);
  const SimDiskCounts& counts() const;
  /// The paths of all files, sorted.
  std::vector<std::string> files() const;
  /// Flips bits of a byte where it is stored. Shape: the file exists and reaches that far.
  void flip(const std::string& path, std::uint64_t offset, std::byte mask = std::byte{0xFF});
  /// The same below the page cache: reads see the old bytes, as long as the page stays in it, and
  /// only File::read_stored() sees what the disk holds. A crash empties the cache.
  void rot(const std::string& path, std::uint64_t offset, std::byte mask = std::byte{0xFF});
  /// Nothing was written there for some seconds. Shape: the file exists.
  bool is_at_rest(const std::string& path, std::uint64_t offset, std::uint64_t size) const;
  /// Cuts a file, durably. Shape: it exists.
  void truncate(const std::string& path, std::uint64_t size);
  /// Shape: the file exists.
  std::uint64_t size_of(const std::string& path) const;
  std::string contents(const std::string& path, std::uint64_t offset, std::uint64_t size) const;
  bool exists(const std::string& path) const;

  std::uint64_t sync_count() const;
  /// Durable writes to pages that no write had reached before: on a real disk they take twice as long.
  std::uint64_t raw_sync_count() const;
  std::uint64_t write_count() const;
  std::uint64_t read_count() const;

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace agro

// A user of a block device who checks all it reads, and notes how long it ever had to wait.
#pragma once

#include <vector>

#include "base/clock.hpp"
#include "block/write_history.hpp"

namespace agro {

/// What the user saw.
struct Exercise {
  Duration longest{0};       // of any one operation, since it was last set to zero
  std::uint64_t count = 0;   // operations done
  std::vector<std::string> errors;
  bool stopped = false;

  void note(Clock& clock, TimePoint begin, const Result<void>& done) {
    longest = std::max(longest, clock.now() - begin);
    ++count;
    if (!done.has_value()) errors.push_back(done.error().to_string());
  }
};

/// Writes, flushes and reads sectors [begin, end) of `device`, until stopped or an error comes.
/// Nobody else writes there, and they were zero before.
inline Job exercise(BlockDevice& device, Clock& clock, std::uint64_t seed, std::uint64_t begin,
                    std::uint64_t end, Exercise& result) {
  Random random(seed);
  std::vector<std::uint64_t> present(end - begin, 0);
  std::uint64_t number = 0;
  while (!result.stopped && result.errors.empty()) {
    const std::uint64_t lba = random.below(end - begin);
    const std::uint64_t count = std::min(1 + random.below(8), end - begin - lba);
    const std::vector<std::byte> data = numbered(count, ++number);
    TimePoint started = clock.now();
    Result<void> done = co_await device.write((begin + lba) * kSectorSize, data);
    result.note(clock, started, done);
    for (std::uint64_t step = 0; step < count; ++step) present[lba + step] = number;
    started = clock.now();
    done = co_await device.flush();
    result.note(clock, started, done);
    const std::uint64_t read_lba = random.below(end - begin);
    std::vector<std::byte> sector(kSectorSize);
    started = clock.now();
    done = co_await device.read((begin + read_lba) * kSectorSize, sector);
    result.note(clock, started, done);
    if (done.has_value() && numbers_of(sector).front() != present[read_lba]) {
      result.errors.push_back("wrong data in sector " + std::to_string(begin + read_lba));
    }
    // Users think between operations; and a loop without waits would stand still in simulated time.
    co_await sleep_for(clock, std::chrono::milliseconds(5 + random.below(40)));
  }
}

/// Several users of one device at once.
class Users {
 public:
  Users(Executor executor, Clock& clock, std::shared_ptr<BlockDevice> device, std::uint64_t seed,
        std::size_t count = 4)
      : device_(std::move(device)), group_(executor) {
    const std::uint64_t part = device_->size_bytes() / kSectorSize / count;
    for (std::size_t index = 0; index < count; ++index) {
      group_.spawn(exercise(*device_, clock, seed + index, index * part, (index + 1) * part, seen_));
    }
  }
  Exercise& seen() { return seen_; }
  /// The longest wait since the last call.
  Duration take_longest() { return std::exchange(seen_.longest, Duration(0)); }
  void stop() { seen_.stopped = true; }
  bool ended() const { return group_.count() == 0; }

 private:
  std::shared_ptr<BlockDevice> device_;
  Exercise seen_;
  TaskGroup group_;
};

}  // namespace agro

// The oracle of crash tests: numbered writes, and which prefix of them is on a device.
//
// Source: DESIGN.md section 3, "Recovery": the recovered device is a prefix of the write history that
// contains every flushed write.
#pragma once

#include <algorithm>
#include <vector>

#include "base/random.hpp"
#include "block/block_device.hpp"
#include "block/segment.hpp"

namespace agro {

/// Whole-sector writes numbered in order, so that a device's content tells which of them it has.
struct History {
  struct Write {
    std::uint64_t lba;
    std::uint64_t count;
    bool trim;
  };
  std::vector<Write> writes;      // number i+1
  std::size_t flushed_count = 0;  // writes that a successful flush covers

  /// The device after the first `count` writes: the number in each sector, 0 where zeros.
  std::vector<std::uint64_t> replay(std::size_t count, std::uint64_t sector_count) const {
    std::vector<std::uint64_t> sectors(sector_count, 0);
    for (std::size_t index = 0; index < count; ++index) {
      for (std::uint64_t step = 0; step < writes[index].count; ++step) {
        sectors[writes[index].lba + step] = writes[index].trim ? 0 : index + 1;
      }
    }
    return sectors;
  }
};

inline std::vector<std::byte> numbered(std::uint64_t count, std::uint64_t number) {
  std::vector<std::byte> data(count * kSectorSize);
  for (std::uint64_t offset = 0; offset < data.size(); offset += 8) {
    store(MutableBytes(data).subspan(offset), number);
  }
  return data;
}

/// Writes, trims and flushes at random until told to stop or an error comes.
inline Job write_numbered(BlockDevice& volume, History& history, Random& random,
                          std::uint64_t sector_count, bool& stopped) {
  while (!stopped) {
    const std::uint64_t lba = random.below(sector_count);
    const std::uint64_t count = std::min(1 + random.below(random.chance(1, 8) ? 40 : 3), sector_count - lba);
    const bool trim = random.chance(1, 10);
    history.writes.push_back({lba, count, trim});
    const std::vector<std::byte> data = numbered(count, history.writes.size());
    Result<void> done;
    if (trim) {
      done = co_await volume.trim(lba * kSectorSize, count * kSectorSize);
    } else {
      done = co_await volume.write(lba * kSectorSize, data);
    }
    if (!done) co_return;
    if (random.chance(1, 6)) {
      const std::size_t covered = history.writes.size();
      if ((co_await volume.flush()).has_value()) history.flushed_count = covered;
    }
  }
}

/// The number in each sector; -1 for a sector that is no single number.
inline std::vector<std::uint64_t> numbers_of(const std::vector<std::byte>& bytes) {
  std::vector<std::uint64_t> numbers;
  for (std::size_t begin = 0; begin < bytes.size(); begin += kSectorSize) {
    const auto first = load<std::uint64_t>(ConstBytes(bytes).subspan(begin));
    bool whole = true;
    for (std::size_t offset = 0; offset < kSectorSize; offset += 8) {
      whole = whole && load<std::uint64_t>(ConstBytes(bytes).subspan(begin + offset)) == first;
    }
    numbers.push_back(whole ? first : UINT64_MAX);
  }
  return numbers;
}

/// Cuts the history to the prefix that is on the device; false when none is. Of the write after the
/// last whole one, some first sectors may be there too, where it went into two segments.
inline bool keep_survivors(History& history, const std::vector<std::uint64_t>& found) {
  for (std::size_t count = history.writes.size() + 1; count-- > history.flushed_count;) {
    std::vector<std::uint64_t> sectors = history.replay(count, found.size());
    std::uint64_t torn_count = 0;
    if (count < history.writes.size() && !history.writes[count].trim) {
      const History::Write& torn = history.writes[count];
      while (torn_count < torn.count && found[torn.lba + torn_count] == count + 1) {
        sectors[torn.lba + torn_count++] = count + 1;
      }
    }
    if (sectors != found) continue;
    history.writes.resize(count + (torn_count > 0 ? 1 : 0));
    if (torn_count > 0) history.writes.back().count = torn_count;
    history.flushed_count = history.writes.size();
    return true;
  }
  return false;
}

}  // namespace agro

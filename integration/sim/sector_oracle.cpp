#include "sector_oracle.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/assert.hpp"

namespace agro {

SectorOracle::SectorOracle(std::uint32_t volume, std::uint64_t unit_count)
    : volume_(volume), units_(unit_count, std::vector<Entry>{Entry{0, 0, 0}}), ops_(1) {
  ops_.front().acknowledged = 0;
}

SectorOracle::Op SectorOracle::begin_write(std::uint64_t unit, std::uint64_t count, bool zero) {
  AGRO_ASSERT(unit + count <= units_.size());
  const Op op = static_cast<Op>(ops_.size());
  const std::uint64_t now = mark();
  ops_.push_back({now, kNever, unit, count, zero});
  for (std::uint64_t at = unit; at < unit + count; ++at) {
    prune(units_[at]);
    units_[at].push_back({op, now, kNever});
  }
  return op;
}

void SectorOracle::fill(Op op, std::uint64_t unit, MutableBytes out) const {
  for (std::uint64_t offset = 0; offset < out.size(); offset += 16) {
    const std::uint64_t place = (std::uint64_t{volume_} << 40) | (unit + offset / kUnitSize);
    store(out.subspan(offset), std::uint64_t{op});
    store(out.subspan(offset + 8), place);
  }
}

void SectorOracle::acknowledge(Op op) {
  OpRecord& record = ops_[op];
  record.acknowledged = mark();
  for (std::uint64_t at = record.unit; at < record.unit + record.count; ++at) {
    for (Entry& entry : units_[at]) {
      if (entry.op == op) entry.visible = std::min(entry.visible, record.acknowledged);
    }
  }
}

void SectorOracle::flushed(std::uint64_t begun) { flushed_ = std::max(flushed_, begun); }

/// The operation whose data these are; 0: zeros; kGarbage: nobody wrote that here.
SectorOracle::Op SectorOracle::value_of(std::uint64_t unit, ConstBytes bytes) const {
  const auto op = load<std::uint64_t>(bytes);
  const std::uint64_t place = op == 0 ? 0 : (std::uint64_t{volume_} << 40) | unit;
  bool same = op < ops_.size();
  for (std::uint64_t offset = 0; same && offset < kUnitSize; offset += 16) {
    same = load<std::uint64_t>(bytes.subspan(offset)) == op &&
           load<std::uint64_t>(bytes.subspan(offset + 8)) == place;
  }
  return same ? static_cast<Op>(op) : kGarbage;
}

bool SectorOracle::shows(const Entry& entry, Op value) const {
  return value == 0 ? is_zero(entry) : entry.op == value && !is_zero(entry);
}

bool SectorOracle::is_flushed(const Entry& entry) const {
  return ops_[entry.op].acknowledged < flushed_;
}

std::uint64_t SectorOracle::begin_read() {
  const std::uint64_t begun = mark();
  reads_.insert(begun);
  return begun;
}

void SectorOracle::end_read(std::uint64_t begun) { reads_.erase(reads_.find(begun)); }

/// Forgets what something flushed has replaced: it can never be seen again, but by reads under way.
void SectorOracle::prune(std::vector<Entry>& entries) const {
  const std::uint64_t oldest_read = reads_.empty() ? kNever : *reads_.begin();
  std::uint64_t floor = 0;
  for (const Entry& entry : entries) {
    if (is_flushed(entry) && entry.visible < oldest_read) floor = std::max(floor, entry.begun);
  }
  std::erase_if(entries, [floor](const Entry& entry) { return entry.visible < floor; });
}

std::string SectorOracle::check_read(std::uint64_t unit, ConstBytes bytes, std::uint64_t begun) {
  const std::uint64_t now = mark();
  for (std::uint64_t offset = 0; offset < bytes.size(); offset += kUnitSize, ++unit) {
    const ConstBytes found = bytes.subspan(offset, kUnitSize);
    const Op value = value_of(unit, found);
    std::vector<Entry>& entries = units_[unit];
    // What began after something was visible, and was itself visible before the read, replaced it.
    std::uint64_t floor = 0;
    for (const Entry& entry : entries) {
      if (entry.visible < begun) floor = std::max(floor, entry.begun);
    }
    Entry* seen = nullptr;
    std::size_t legal_count = 0;
    for (Entry& entry : entries) {
      if (!shows(entry, value) || entry.visible < floor) continue;
      seen = &entry;
      ++legal_count;
    }
    if (legal_count == 0) return complaint(unit, found, "a read returned");
    if (legal_count == 1) seen->visible = std::min(seen->visible, now);
  }
  return "";
}

std::string SectorOracle::check_recovered(ConstBytes bytes) {
  AGRO_ASSERT(bytes.size() == units_.size() * kUnitSize);
  // The latest beginning of what surely survived.
  std::uint64_t latest = 0;
  std::vector<Op> values(units_.size());
  for (std::uint64_t unit = 0; unit < units_.size(); ++unit) {
    values[unit] = value_of(unit, bytes.subspan(unit * kUnitSize, kUnitSize));
    const Entry* only = nullptr;
    std::size_t count = 0;
    for (const Entry& entry : units_[unit]) {
      if (!shows(entry, values[unit])) continue;
      only = &entry;
      ++count;
    }
    if (count == 1) latest = std::max(latest, only->begun);
  }
  for (std::uint64_t unit = 0; unit < units_.size(); ++unit) {
    std::uint64_t floor = 0;
    for (const Entry& entry : units_[unit]) {
      if (is_flushed(entry) || entry.visible < latest) floor = std::max(floor, entry.begun);
    }
    const bool legal = std::any_of(units_[unit].begin(), units_[unit].end(), [&](const Entry& one) {
      return shows(one, values[unit]) && one.visible >= floor;
    });
    if (legal) continue;
    return complaint(unit, bytes.subspan(unit * kUnitSize, kUnitSize),
                     fmt::format("a new writer found (something begun at {} survived)", latest));
  }
  // What was found is durable, and everything else is gone for ever.
  const std::uint64_t now = mark();
  for (std::uint64_t unit = 0; unit < units_.size(); ++unit) {
    const Op value = values[unit];
    units_[unit].assign(1, Entry{value, value == 0 ? 0 : ops_[value].begun, now});
  }
  recovered_ = flushed_ = now;
  return "";
}

std::string SectorOracle::describe(Op op) const {
  if (op == 0) return "the zeros of before";
  const OpRecord& record = ops_[op];
  return fmt::format("{} {} of units {}+{}, begun {}, {}", record.zero ? "zeroing" : "write", op,
                     record.unit, record.count, record.begun,
                     record.acknowledged == kNever
                         ? std::string("never acknowledged")
                         : fmt::format("acknowledged {}{}", record.acknowledged,
                                       record.acknowledged < flushed_ ? " and flushed" : ""));
}

std::string SectorOracle::complaint(std::uint64_t unit, ConstBytes bytes,
                                    const std::string& what) const {
  const Op value = value_of(unit, bytes);
  std::string text = fmt::format("{} in unit {} (byte {}) ", what, unit, unit * kUnitSize);
  if (value == 0) text += "zeros";
  if (value == kGarbage) {
    text += fmt::format("bytes that nobody wrote there: {:016x} {:016x}", load<std::uint64_t>(bytes),
                        load<std::uint64_t>(bytes.subspan(8)));
  }
  if (value != 0 && value != kGarbage) text += describe(value);
  text += fmt::format("; now {}, flushed {}, recovered {}; expected one of:", now_, flushed_,
                      recovered_);
  for (const Entry& entry : units_[unit]) {
    text += fmt::format("\n    {}{}", describe(entry.op),
                        entry.visible == kNever ? "" : fmt::format(", visible {}", entry.visible));
  }
  text += "\n  the last operations on that unit:";
  std::size_t told = 0;
  for (Op op = static_cast<Op>(ops_.size()); op-- > 1 && told < 8;) {
    const OpRecord& record = ops_[op];
    if (unit < record.unit || unit >= record.unit + record.count) continue;
    text += "\n    " + describe(op);
    ++told;
  }
  return text;
}

}  // namespace agro

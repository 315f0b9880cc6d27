#include "internal/nbd/buffers.hpp"

#include <algorithm>

namespace agro::nbd {

namespace {
/// Holds the replies to some 60 reads of 4 KiB.
constexpr std::size_t kArenaSize = 256U << 10;
}  // namespace

void InputBuffer::consume(std::size_t size) {
  AGRO_ASSERT(size <= end_ - begin_);
  begin_ += size;
  if (begin_ == end_) begin_ = end_ = 0;
}

Task<void> InputBuffer::fill(Stream& stream, std::size_t size_min, std::size_t size_max) {
  AGRO_ASSERT(size_min <= memory_.size());
  AGRO_ASSERT(size_min <= size_max);
  if (begin_ + size_min > memory_.size()) {
    std::memmove(memory_.data(), memory_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (size() < size_min) {
    const std::size_t room = std::min(memory_.size() - end_, size_max - size());
    AGRO_CO_TRY(const std::size_t count,
                co_await stream.read_some(memory_.bytes().subspan(end_, room)));
    end_ += count;
  }
  co_return Result<void>();
}

MutableBytes ReplyQueue::reserve(std::size_t size) {
  if (arena_used_ + size > arena_.size()) {
    AlignedBuffer larger(std::max(kArenaSize, 2 * (arena_used_ + size)));
    if (arena_used_ > 0) std::memcpy(larger.data(), arena_.data(), arena_used_);
    arena_ = std::move(larger);
  }
  return arena_.bytes().subspan(arena_used_, size);
}

void ReplyQueue::commit(std::size_t size) {
  AGRO_ASSERT(arena_used_ + size <= arena_.size());
  if (!parts_.empty() && parts_.back().owner == nullptr) {
    parts_.back().size += size;
  } else {
    parts_.push_back(
        {.owner = nullptr, .data = nullptr, .arena_offset = arena_used_, .size = size});
  }
  arena_used_ += size;
  size_ += size;
}

void ReplyQueue::append(std::shared_ptr<const void> owner, ConstBytes bytes) {
  if (bytes.empty()) return;
  parts_.push_back(
      {.owner = std::move(owner), .data = bytes.data(), .arena_offset = 0, .size = bytes.size()});
  size_ += bytes.size();
}

std::vector<ConstBytes> ReplyQueue::views() const {
  std::vector<ConstBytes> views;
  views.reserve(parts_.size());
  for (const Part& part : parts_) {
    const std::byte* data = part.owner == nullptr ? arena_.data() + part.arena_offset : part.data;
    views.emplace_back(data, part.size);
  }
  return views;
}

void ReplyQueue::clear() {
  parts_.clear();
  arena_used_ = 0;
  size_ = 0;
  if (arena_.size() > 2 * kArenaSize) arena_ = AlignedBuffer();
}

std::shared_ptr<AlignedBuffer> PayloadPools::take(std::size_t size) {
  for (BufferPool& pool : pools_) {
    if (size <= pool.buffer_size()) return pool.take();
  }
  AGRO_ASSERT(size <= pools_.back().buffer_size());
  return nullptr;
}

}  // namespace agro::nbd

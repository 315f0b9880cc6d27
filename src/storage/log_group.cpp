#include "storage/log_group.hpp"

namespace agro {

LogGroup::LogGroup(LogPosition start, std::uint32_t block_size, std::uint64_t session,
                   BufferPool& pages)
    : cursor_(start),
      block_size_(block_size),
      pages_per_slot_(block_size / kPageSize),
      session_(session),
      group_sequence_(start.sequence),
      pool_(pages) {}

bool LogGroup::frame_takes(std::uint32_t inline_page_count) const {
  return open_ && sizeof(FrameHeader) + (records_.size() + 1) * sizeof(StoreRecord) + tail_.size() <= kPageSize &&
         1 + inline_page_count_ + inline_page_count <= pages_left();
}

bool LogGroup::needs_slot(std::uint32_t inline_page_count) const {
  if (frame_takes(inline_page_count)) return false;
  const std::uint32_t open_pages = open_ ? 1 + inline_page_count_ : 0;
  return open_pages + 1 + inline_page_count > pages_left();
}

void LogGroup::open_slot(std::uint32_t successor) {
  close_frame();
  cursor_.slot = cursor_.next_slot;
  cursor_.page = 0;
  cursor_.next_slot = successor;
}

PackedTail LogGroup::add(StoreRecord& record, const SharedBytes& data) {
  const std::uint32_t page_count = pages_of(data.size());
  if (!frame_takes(page_count)) {
    close_frame();
    open_ = true;
  }
  AGRO_ASSERT(frame_takes(page_count));
  PackedTail tail;
  if (page_count > 0) {
    AGRO_ASSERT(record.kind == RecordKind::put_inline);
    record.slot = cursor_.slot;
    record.page = static_cast<std::uint16_t>(cursor_.page + 1 + inline_page_count_);
    owned_blocks_.push_back(data);
    // A later block would need a header of its own to be packed, which takes the page that is saved.
    const std::size_t taken = sizeof(FrameHeader) + (records_.size() + 1) * sizeof(StoreRecord);
    if (inline_page_count_ == 0) tail = find_tail(data.bytes, kPageSize - taken);
    if (tail.is_some()) {
      record.flags |= kRecordPacked;
      tail_ = tail;
      packed_ = data.bytes;
      inline_parts_.push_back(data.bytes.first(data.size() - kPageSize));
    } else {
      for (const ConstBytes part : whole_pages(data, pool_, owned_pages_)) {
        inline_parts_.push_back(part);
      }
    }
    inline_page_count_ += record.own_pages();
  }
  records_.push_back(record);
  ++record_count_;
  return tail;
}

void LogGroup::add_seal() {
  AGRO_ASSERT(!open_ && size_ == 0);
  open_ = true;
}

void LogGroup::close_frame() {
  if (!open_) return;
  FrameHeader header;
  header.sequence = cursor_.sequence;
  header.group_sequence = group_sequence_;
  header.session = session_;
  header.previous_crc = cursor_.previous_crc;
  header.next_slot = cursor_.next_slot;
  header.inline_page_count = static_cast<std::uint16_t>(inline_page_count_);
  header.slot = cursor_.slot;
  header.page = cursor_.page;
  header.tail_code = tail_.code();
  std::shared_ptr<AlignedBuffer> page = pool_.take();
  cursor_.previous_crc = encode_frame(header, records_, page->bytes(), packed_);

  const std::uint64_t offset =
      slot_offset(cursor_.slot, block_size_) + std::uint64_t{cursor_.page} * kPageSize;
  const bool follows = !writes_.empty() && cursor_.page > 0 && size_ > 0;
  if (!follows) writes_.push_back({offset, {}});
  std::vector<ConstBytes>& parts = writes_.back().parts;
  parts.push_back(page->bytes());
  parts.insert(parts.end(), inline_parts_.begin(), inline_parts_.end());
  owned_pages_.push_back(std::move(page));

  size_ += (1 + std::uint64_t{inline_page_count_}) * kPageSize;
  ++cursor_.sequence;
  cursor_.page += 1 + inline_page_count_;
  records_.clear();
  inline_parts_.clear();
  inline_page_count_ = 0;
  tail_ = {};
  packed_ = {};
  open_ = false;
}

std::vector<FileWrite> LogGroup::finish() {
  close_frame();
  return std::move(writes_);
}

std::vector<ConstBytes> whole_pages(const SharedBytes& data, BufferPool& pool,
                                    std::vector<std::shared_ptr<AlignedBuffer>>& owned_pages) {
  std::vector<ConstBytes> parts;
  const std::size_t whole = round_down(data.size(), kPageSize);
  if (whole > 0) parts.push_back(data.bytes.first(whole));
  if (whole < data.size()) {
    std::shared_ptr<AlignedBuffer> tail = pool.take();
    std::memset(tail->data(), 0, kPageSize);
    std::memcpy(tail->data(), data.bytes.data() + whole, data.size() - whole);
    parts.push_back(tail->bytes());
    owned_pages.push_back(std::move(tail));
  }
  return parts;
}

}  // namespace agro

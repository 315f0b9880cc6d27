#include "blockset/crc.hpp"

#include <fmt/format.h>

#include "base/crc32c.hpp"

namespace agro {
namespace {

ConstBytes record_bytes(const CrcFooter& footer, std::size_t size) {
  return std::as_bytes(std::span(&footer, 1)).first(size);
}

std::uint32_t page_salt(const BlockRef& ref, std::uint32_t page_index) {
  const std::uint64_t salted = hash_block_ref(ref) + page_index * 0x9E3779B97F4A7C15ULL;
  return static_cast<std::uint32_t>(salted >> 32);
}

ConstBytes page_of(ConstBytes block, const CrcLayout& layout, std::uint32_t index) {
  const std::uint32_t begin = std::min(index * kPageSize, layout.table_offset);
  return block.subspan(begin, std::min(kPageSize, layout.table_offset - begin));
}

tl::unexpected<Error> damaged(const BlockRef& ref, std::string_view what) {
  return fail(Errc::corrupt, fmt::format("block {}: {}", ref.to_string(), what));
}

}  // namespace

CrcLayout crc_layout(std::uint32_t block_size) {
  AGRO_ASSERT(block_size >= kPageSize);
  AGRO_ASSERT(block_size % kPageSize == 0);
  const auto table_offset_for = [block_size](std::uint32_t page_count) {
    return static_cast<std::uint32_t>(block_size - sizeof(CrcFooter) - 4 * page_count);
  };
  // More table means fewer covered pages. The smallest table that covers what it leaves wins; at
  // some sizes that is one entry more than there are pages, and the last is the CRC of nothing.
  std::uint32_t page_count = block_size / kPageSize;
  while (page_count > 1 &&
         round_up(table_offset_for(page_count - 1), kPageSize) / kPageSize <= page_count - 1) {
    --page_count;
  }
  return {table_offset_for(page_count), page_count};
}

std::uint32_t crc_block_size(std::uint32_t payload_size) {
  auto size = static_cast<std::uint32_t>(round_up(std::max(payload_size, 1U), kPageSize));
  while (crc_layout(size).table_offset < payload_size) size += kPageSize;
  return size;
}

std::uint32_t crc_payload_capacity(std::uint32_t block_size) {
  return crc_layout(block_size).table_offset;
}

std::uint32_t crc_of_page(const BlockRef& ref, std::uint32_t page_index, ConstBytes page) {
  return crc32c(page, page_salt(ref, page_index));
}

std::uint32_t crc_seal(const BlockRef& ref, MutableBytes buffer, std::uint32_t payload_size) {
  const std::uint32_t size = crc_block_size(payload_size);
  AGRO_ASSERT(buffer.size() >= size);
  const MutableBytes block = buffer.first(size);
  const CrcLayout layout = crc_layout(size);
  std::memset(block.data() + payload_size, 0, layout.table_offset - payload_size);
  for (std::uint32_t index = 0; index < layout.page_count; ++index) {
    store(block.subspan(layout.table_offset + 4 * index),
          crc_of_page(ref, index, page_of(block, layout, index)));
  }
  CrcFooter footer{};
  footer.magic = kCrcMagic;
  footer.version = 1;
  footer.payload_size = payload_size;
  footer.page_count = layout.page_count;
  footer.ref_hash = hash_block_ref(ref);
  footer.table_crc32c = crc32c(block.subspan(layout.table_offset, 4 * layout.page_count));
  footer.self_crc32c = crc32c(record_bytes(footer, offsetof(CrcFooter, self_crc32c)));
  const std::uint32_t table_end = layout.table_offset + 4 * layout.page_count;
  AGRO_ASSERT(table_end == size - sizeof footer);
  store(block.subspan(table_end), footer);
  return size;
}

Result<std::uint32_t> crc_verify_block(const BlockRef& ref, ConstBytes block) {
  if (block.size() < kPageSize || block.size() % kPageSize != 0 || block.size() > kBlockSizeMax) {
    return damaged(ref, "size is not a whole number of pages");
  }
  const auto footer = load<CrcFooter>(block.last(sizeof(CrcFooter)));
  if (footer.magic != kCrcMagic || footer.version != 1) return damaged(ref, "no footer");
  if (crc32c(record_bytes(footer, offsetof(CrcFooter, self_crc32c))) != footer.self_crc32c) {
    return damaged(ref, "footer checksum");
  }
  const CrcLayout layout = crc_layout(static_cast<std::uint32_t>(block.size()));
  if (footer.ref_hash != hash_block_ref(ref)) return damaged(ref, "is another block");
  if (footer.page_count != layout.page_count || footer.payload_size > layout.table_offset) {
    return damaged(ref, "footer fields");
  }
  if (crc32c(block.subspan(layout.table_offset, 4 * layout.page_count)) != footer.table_crc32c) {
    return damaged(ref, "table checksum");
  }
  for (std::uint32_t index = 0; index < layout.page_count; ++index) {
    const auto stored = load<std::uint32_t>(block.subspan(layout.table_offset + 4 * index));
    if (stored != crc_of_page(ref, index, page_of(block, layout, index))) {
      return damaged(ref, fmt::format("page {} checksum", index));
    }
  }
  return footer.payload_size;
}

Result<std::uint32_t> crc_table_position(std::uint32_t block_size, std::uint32_t first_page,
                                         std::uint32_t page_count) {
  if (block_size < kPageSize || block_size % kPageSize != 0) {
    return fail(Errc::invalid_argument, "the block carries no checksums");
  }
  const CrcLayout layout = crc_layout(block_size);
  if (std::uint64_t{first_page} + page_count > layout.page_count) {
    return fail(Errc::invalid_argument, "pages beyond the block's checksums");
  }
  return layout.table_offset + 4 * first_page;
}

bool CrcCheck::verify(const BlockRef& ref, std::uint32_t offset, ConstBytes bytes,
                      std::span<const std::uint32_t> page_crcs) const {
  AGRO_ASSERT(offset % kPageSize == 0);
  AGRO_ASSERT(bytes.size() % kPageSize == 0);
  const std::size_t page_count = bytes.size() / kPageSize;
  if (page_crcs.size() != page_count) return false;
  for (std::size_t index = 0; index < page_count; ++index) {
    const auto page_index = static_cast<std::uint32_t>(offset / kPageSize + index);
    if (crc_of_page(ref, page_index, bytes.subspan(index * kPageSize, kPageSize)) !=
        page_crcs[index]) {
      return false;
    }
  }
  return true;
}

bool CrcCheck::verify_block(const BlockRef& ref, ConstBytes block) const {
  return crc_verify_block(ref, block).has_value();
}

}  // namespace agro

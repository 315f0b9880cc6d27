// Checksums of a block: one CRC32C per page, in a trailer, salted with the block's name.
//
// A checksummed block of N pages:
//   [0, table)            payload, then zeros
//   [table, size - 32)    page_count CRCs, u32 little-endian: of page i's bytes before `table`
//   [size - 32, size)     CrcFooter
// The table's place follows from the block's size alone, so that a reader of one page needs no
// footer. A misplaced page or block fails, because the salt is its BlockRef and page number.
// Format: docs/formats/block.md. Source: DESIGN.md section 3.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "blockset/backend.hpp"
#include "core/block_ref.hpp"

namespace agro {

/// The last 32 bytes of a checksummed block (docs/formats/block.md, "Footer").
struct CrcFooter {
  std::uint32_t magic;         //  0  kCrcMagic
  std::uint16_t version;       //  4  1
  std::uint16_t zero;          //  6
  std::uint32_t payload_size;  //  8  bytes of payload at the front
  std::uint32_t page_count;    // 12  entries of the table
  std::uint64_t ref_hash;      // 16  hash_block_ref of the block's name
  std::uint32_t table_crc32c;  // 24  of the table
  std::uint32_t self_crc32c;   // 28  of bytes [0, 28)
};
static_assert(sizeof(CrcFooter) == 32 && offsetof(CrcFooter, self_crc32c) == 28);
static_assert(std::has_unique_object_representations_v<CrcFooter>, "no hidden padding");
inline constexpr std::uint32_t kCrcMagic = 0x31434741;  // "AGC1"

struct CrcLayout {
  std::uint32_t table_offset = 0;  // where the table starts = bytes covered by checksums
  std::uint32_t page_count = 0;
};
/// Shape: `block_size` is a whole number of pages, at least one. Same answer everywhere.
CrcLayout crc_layout(std::uint32_t block_size);

/// The smallest block, in whole pages, that takes `payload_size` bytes and their checksums.
std::uint32_t crc_block_size(std::uint32_t payload_size);
/// The most payload that fits a block of `block_size` bytes.
std::uint32_t crc_payload_capacity(std::uint32_t block_size);

/// Zero-fills after the payload, computes all checksums in place, returns the block's size.
/// Shape: `buffer` has at least crc_block_size(payload_size) bytes, the payload in front.
std::uint32_t crc_seal(const BlockRef& ref, MutableBytes buffer, std::uint32_t payload_size);

/// Verifies every checksum and the footer; returns the payload's size. Errors: corrupt, naming what.
Result<std::uint32_t> crc_verify_block(const BlockRef& ref, ConstBytes block);

/// The checksum of one page. Shape: `page` is a page's covered bytes, 4096 but for the last.
std::uint32_t crc_of_page(const BlockRef& ref, std::uint32_t page_index, ConstBytes page);

/// Where in a block of `block_size` bytes the CRCs of pages [first, first + count) lie.
/// Errors: invalid_argument, beyond the covered pages.
Result<std::uint32_t> crc_table_position(std::uint32_t block_size, std::uint32_t first_page,
                                         std::uint32_t page_count);

/// ReadCheck over these functions. Shape of verify(): offset and size in whole pages.
class CrcCheck final : public ReadCheck {
 public:
  bool verify(const BlockRef& ref, std::uint32_t offset, ConstBytes bytes,
              std::span<const std::uint32_t> page_crcs) const override;
  bool verify_block(const BlockRef& ref, ConstBytes block) const override;
};

}  // namespace agro

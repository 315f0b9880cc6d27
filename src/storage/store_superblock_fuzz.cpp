// Any bytes as a superblock: a clear error or a value in range, never a crash.
#include <algorithm>
#include <cstring>

#include "base/crc32c.hpp"
#include "storage/store_format.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;
  AlignedBuffer page(kPageSize);
  std::memset(page.data(), 0, page.size());
  std::memcpy(page.data(), data, std::min<std::size_t>(size, page.size()));
  // With its checksum put right, so that the rest is looked at too.
  for (const bool repaired : {false, true}) {
    if (repaired) {
      const std::uint32_t crc = crc32c(page.bytes().first(offsetof(Superblock, self_crc)));
      store(page.bytes().subspan(offsetof(Superblock, self_crc)), crc);
    }
    const Result<Superblock> superblock = decode_superblock(page.bytes());
    if (!superblock.has_value()) continue;
    AGRO_ASSERT(superblock->log_page <= superblock->block_size / kPageSize);
    AlignedBuffer again(kPageSize);
    encode_superblock(*superblock, again.bytes());
    AGRO_ASSERT(std::memcmp(again.data(), page.data(), sizeof(Superblock)) == 0);
  }
  return 0;
}

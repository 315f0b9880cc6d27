// Any bytes as a checkpoint: a clear error or a value in range, never a crash.
#include <algorithm>
#include <cstring>

#include "base/crc32c.hpp"
#include "storage/store_format.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;
  const StoreShape shape{.block_size = 64 * 1024, .slot_count = 100};
  AlignedBuffer slot(shape.block_size);
  std::memset(slot.data(), 0, slot.size());
  std::memcpy(slot.data(), data, std::min<std::size_t>(size, slot.size()));
  // With its checksums put right, so that the rest is looked at too.
  for (const bool repaired : {false, true}) {
    if (repaired) {
      auto header = load<CheckpointHeader>(slot.bytes());
      header.record_count %= checkpoint_records_max(shape.block_size) + 1;
      const ConstBytes records =
          slot.bytes().subspan(kPageSize, header.record_count * sizeof(StoreRecord));
      header.records_crc = crc32c(records);
      store(slot.bytes(), header);
      store(slot.bytes().subspan(4), crc32c(slot.bytes().subspan(8, sizeof header - 8)));
    }
    const Result<CheckpointPart> part = decode_checkpoint(slot.bytes(), shape);
    if (!part.has_value()) continue;
    for (const StoreRecord& record : part->records) AGRO_ASSERT(record_fits(record, shape));
  }
  return 0;
}

// Fuzzes the recovery of a whole store file: superblocks, checkpoint slots, log frames, their slots.
//
// The file of a small store that had writes, removals, fences and a checkpoint is changed in a few
// places and opened. It is refused with an error, or it serves: then everything listed is in range,
// it takes a block, and it opens again after a clean end with the same contents.
//
// Input: flags (bit 0: checksums stay as they are; bit 1: the file is cut), then patches: page (2
// bytes), offset in it (2), count (1), bytes.
#include <algorithm>
#include <cstring>
#include <map>

#include "base/log.hpp"
#include "storage/store_format.hpp"
#include "storage/store_testing.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kSlotSize = kBlockSizeMin;
constexpr std::uint64_t kStoreSize = 24 * std::uint64_t{kSlotSize};

StoreOptions small_store() {
  StoreOptions options = store_options(kStoreSize);
  options.checkpoint_log_size = kSlotSize;
  options.grow_step_max = 4 * std::uint64_t{kSlotSize};
  return options;
}

/// The bytes of a store that was killed; whole pages.
std::string make_template() {
  StoreNode node(1);
  Env env = node.env();
  auto store = std::move(node.sim.run(open_mmap_store(env, small_store())).value());
  const auto put = [&](std::uint64_t index, std::uint32_t size) {
    const BlockRef ref = block_ref(1 + index % 3, 2, index);
    AGRO_ASSERT(node.sim.run(store->put(ref, block_bytes(ref, size), {})).has_value());
  };
  for (std::uint64_t index = 1; index <= 20; ++index) put(index, index % 5 == 0 ? kSlotSize : 8192);
  AGRO_ASSERT(node.sim.run(store->remove({block_ref(2, 2, 1), block_ref(3, 2, 5)})).has_value());
  AGRO_ASSERT(node.sim.run(store->fence({1}, {2})).has_value());
  for (std::uint64_t index = 21; index <= 26; ++index) put(index, 4096);
  node.disk.kill();
  (void)node.sim.run(store->close());
  return node.disk.contents(kStoreFile, 0, node.disk.size_of(kStoreFile));
}

MutableBytes page_of(std::string& file, std::size_t page) {
  return std::as_writable_bytes(std::span(file)).subspan(page * kPageSize, kPageSize);
}

void repair_checkpoint(MutableBytes slot) {
  auto header = load<CheckpointHeader>(slot);
  header.record_count %= checkpoint_records_max(kSlotSize) + 1;
  const std::size_t size = header.record_count * sizeof(StoreRecord);
  if (slot.size() < kPageSize + size) return;
  header.records_crc = crc32c(slot.subspan(kPageSize, size));
  store(slot, header);
  store(slot.subspan(4), crc32c(slot.subspan(8, sizeof header - 8)));
}

/// Puts every checksum right, and the chain of frames with them.
void repair(std::string& file) {
  std::map<std::uint64_t, std::size_t> frames;  // page by sequence
  const std::size_t page_count = file.size() / kPageSize;
  for (std::size_t page = 0; page < page_count; ++page) {
    const MutableBytes bytes = page_of(file, page);
    if (page < 2) {
      store(bytes.subspan(offsetof(Superblock, self_crc)),
            crc32c(bytes.first(offsetof(Superblock, self_crc))));
    } else if (load<std::uint32_t>(bytes) == kFrameMagic) {
      frames.emplace(load<FrameHeader>(bytes).sequence, page);
    } else if (load<std::uint32_t>(bytes) == kCheckpointMagic) {
      const MutableBytes rest = std::as_writable_bytes(std::span(file)).subspan(page * kPageSize);
      repair_checkpoint(rest.first(std::min<std::size_t>(rest.size(), kSlotSize)));
    }
  }
  for (const auto& [sequence, page] : frames) {
    const MutableBytes bytes = page_of(file, page);
    auto header = load<FrameHeader>(bytes);
    if (const auto before = frames.find(sequence - 1); before != frames.end()) {
      header.previous_crc = load<FrameHeader>(page_of(file, before->second)).self_crc;
    }
    store(bytes, header);
    store(bytes.subspan(4), crc32c(bytes.subspan(8)));
  }
}

void patch(std::string& file, ConstBytes input) {
  while (input.size() > 5) {
    const std::size_t page = load<std::uint16_t>(input) % (file.size() / kPageSize);
    const std::size_t offset = load<std::uint16_t>(input.subspan(2)) % kPageSize;
    const std::size_t count = std::min({std::size_t{static_cast<std::uint8_t>(input[4])},
                                        input.size() - 5, kPageSize - offset});
    std::memcpy(page_of(file, page).data() + offset, input.data() + 5, count);
    input = input.subspan(5 + count);
  }
}

void put_file(StoreNode& node, const std::string& bytes) {
  AGRO_ASSERT(node.sim.run(node.disk.make_directories(kStoreDirectory)).has_value());
  auto file = std::move(node.sim.run(node.disk.open(kStoreFile, {.create = true})).value());
  AGRO_ASSERT(node.sim.run(file->resize(bytes.size())).has_value());
  if (!bytes.empty()) {
    AlignedBuffer buffer(bytes.size());
    std::memcpy(buffer.data(), bytes.data(), bytes.size());
    std::vector<ConstBytes> parts = {buffer.bytes()};
    AGRO_ASSERT(node.sim.run(file->write(0, std::move(parts))).has_value());
  }
  AGRO_ASSERT(node.sim.run_job(file->close()));
}

void open_twice(StoreNode& node) {
  Env env = node.env();
  auto opened = node.sim.run(open_mmap_store(env, small_store()));
  if (!opened.has_value()) {
    AGRO_ASSERT(opened.code() != Errc::timed_out);
    return;
  }
  BlockStore& first = **opened;
  for (const BlockInfo& info : first.list({})) {
    AGRO_ASSERT(info.size >= 1 && info.size <= kSlotSize);
    AGRO_ASSERT(first.find(info.ref) == info.size);
    (void)node.sim.run(read_block(first, info.ref));
  }
  const BlockRef ref = block_ref(9, 9, 9);
  const Result<void> put = node.sim.run(first.put(ref, block_bytes(ref, 4096), {}));
  const bool there = first.find(ref).has_value();
  AGRO_ASSERT(!put.has_value() || there);
  const std::vector<BlockInfo> listed = first.list({});
  const bool closed = node.sim.run(first.close()).has_value();
  opened->reset();
  if (!closed) return;
  auto again = node.sim.run(open_mmap_store(env, small_store()));
  AGRO_ASSERT(again.has_value());
  AGRO_ASSERT((*again)->list({}) == listed);
  AGRO_ASSERT(node.sim.run((*again)->close()).has_value());
}

}  // namespace
}  // namespace agro

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  if (size == 0) return 0;
  set_log_sink({});
  static const std::string kTemplate = make_template();
  std::string file = kTemplate;
  const ConstBytes input = std::as_bytes(std::span(data, size));
  patch(file, input.subspan(1));
  if ((data[0] & 1) == 0) repair(file);
  if ((data[0] & 2) != 0 && size >= 3) {
    file.resize(load<std::uint16_t>(input.subspan(1)) % (file.size() / kPageSize + 1) * kPageSize);
  }
  StoreNode node(2);
  put_file(node, file);
  open_twice(node);
  return 0;
}

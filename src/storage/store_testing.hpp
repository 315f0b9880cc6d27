// What the tests of stores share: a node with a simulated disk, and blocks whose bytes tell whose
// they are.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "base/crc32c.hpp"
#include "base/env.hpp"
#include "sim/sim_disk.hpp"
#include "sim/sim_loop.hpp"
#include "storage/mmap_store.hpp"
#include "storage/temp_store.hpp"

namespace agro {

/// Nothing here goes over a network.
class NoNetwork final : public Network {
 public:
  Task<std::unique_ptr<Stream>> connect(Address, TimePoint) override {
    co_return fail(Errc::unavailable, "no network");
  }
  Task<std::unique_ptr<Listener>> listen(Address) override {
    co_return fail(Errc::unavailable, "no network");
  }
};

/// One machine of the simulation, as far as a store sees it.
struct StoreNode {
  explicit StoreNode(std::uint64_t seed)
      : random(seed), disk(sim.clock(), random.fork()), offload(sim.executor()) {}

  Env env() { return {sim.executor(), sim.clock(), random, disk, network, offload, metrics}; }

  SimLoop sim;
  Random random;
  SimDisk disk;
  NoNetwork network;
  InlineOffload offload;
  Metrics metrics;
};

inline constexpr const char* kStoreDirectory = "store";
inline constexpr const char* kStoreFile = "store/blocks";

inline Uuid test_uuid(std::uint8_t number) {
  Uuid id;
  id.bytes.fill(number);
  return id;
}

inline StoreOptions store_options(std::uint64_t size, std::uint32_t block_size = kBlockSizeMin) {
  StoreOptions options;
  options.directory = kStoreDirectory;
  options.size = size;
  options.block_size = block_size;
  options.cluster_id = test_uuid(1);
  options.peer_id = test_uuid(2);
  options.grow_step_max = 16 * std::uint64_t{block_size};
  return options;
}

/// The engines that keep blocks on a disk: `mmap` in a directory, `disk` in one and on a device.
enum class Engine { temp, mmap, disk, device };
inline constexpr const char* kDevice = "device";

inline std::string name_of(Engine engine) {
  constexpr std::array kNames = {"temp", "mmap", "disk", "device"};
  return kNames[static_cast<std::size_t>(engine)];
}

/// A file of zeros that stands for a device. Shape: there is none.
inline void make_device(StoreNode& node, std::uint64_t size, const char* path = kDevice) {
  const std::unique_ptr<File> file = std::move(node.sim.run(node.disk.open(path, {.create = true})).value());
  AGRO_ASSERT(node.sim.run(file->resize(size)).has_value());
  AGRO_ASSERT(node.sim.run(file->sync()).has_value());
}

/// Opens the store of an engine, on a device as large as the options say.
inline Task<std::unique_ptr<BlockStore>> open_store(Env& env, Engine engine, StoreOptions options) {
  AGRO_ASSERT(engine != Engine::temp);
  if (engine == Engine::mmap) return open_mmap_store(env, std::move(options));
  if (engine == Engine::device) options.device = kDevice;
  return open_disk_store(env, std::move(options));
}

inline BlockRef block_ref(std::uint64_t volume, std::uint64_t epoch, std::uint64_t index) {
  return {.volume = {volume}, .epoch = {epoch}, .index = index, .type = BlockType::data};
}

/// Whether block_bytes() of whole pages has a last page that is mostly zeros.
inline bool is_packable(const BlockRef& ref) { return hash_block_ref(ref) % 2 == 0; }
/// The first such ref with at least this index.
inline BlockRef packable_ref(std::uint64_t index) {
  while (!is_packable(block_ref(1, 1, index))) ++index;
  return block_ref(1, 1, index);
}

/// Bytes that follow from (ref, size, version) alone; each 8 bytes differ from all others, but that in half of the
/// blocks of whole pages the last page is mostly zeros, as those are that a flush cut short: they can be packed.
inline SharedBytes block_bytes(const BlockRef& ref, std::size_t size, std::uint64_t version = 0) {
  auto buffer = std::make_shared<AlignedBuffer>(size);
  Random random(hash_block_ref(ref) + version * 0x9E3779B97F4A7C15 + size);
  std::uint64_t word = random.next();
  for (std::size_t at = 0; at < buffer->size(); at += sizeof word) {
    word = word * 6364136223846793005 + 1442695040888963407;
    std::memcpy(buffer->data() + at, &word, sizeof word);
  }
  if (size % kPageSize == 0 && size > kPageSize && is_packable(ref)) {
    std::memset(buffer->data() + size - kPageSize + 32, 0, kPageSize - 72);
  }
  const ConstBytes view(buffer->data(), size);
  return {std::move(buffer), view};
}

/// Reads a whole block. Errors: as BlockStore::read().
inline Task<std::string> read_block(BlockStore& store, BlockRef ref) {
  const auto size = store.find(ref);
  if (!size.has_value()) co_return fail(Errc::not_found, ref.to_string());
  std::string text(*size, '\0');
  AGRO_CO_TRY_OK(co_await store.read(ref, 0, std::as_writable_bytes(std::span(text))));
  co_return text;
}

inline std::string text_of(const SharedBytes& bytes) { return std::string(as_text(bytes.bytes)); }

}  // namespace agro

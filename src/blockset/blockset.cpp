#include "blockset/blockset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "blockset/crc.hpp"

namespace agro {
namespace {

/// The last 8 bytes of a block without checksums (docs/formats/block.md, "Plain blocks").
struct PlainFooter {
  std::uint32_t payload_size;  // 0
  std::uint32_t magic;         // 4  kPlainMagic
};
static_assert(sizeof(PlainFooter) == 8);
constexpr std::uint32_t kPlainMagic = 0x31424741;  // "AGB1"

class BaseLayer final : public Blockset {
 public:
  explicit BaseLayer(BlockBackend& backend) : backend_(backend) {}

  std::uint32_t payload_capacity() const override {
    return backend_.block_size() - static_cast<std::uint32_t>(sizeof(PlainFooter));
  }
  std::uint32_t block_size_for(std::uint32_t payload_size) const override {
    return static_cast<std::uint32_t>(round_up(payload_size + sizeof(PlainFooter), kPageSize));
  }
  std::uint32_t seal(const BlockRef& /*ref*/, MutableBytes buffer,
                     std::uint32_t payload_size) const override {
    const std::uint32_t size = block_size_for(payload_size);
    AGRO_ASSERT(size <= buffer.size());
    std::memset(buffer.data() + payload_size, 0, size - payload_size);
    store(buffer.subspan(size - sizeof(PlainFooter)), PlainFooter{payload_size, kPlainMagic});
    return size;
  }
  Result<SharedBytes> payload(const BlockRef& ref, SharedBytes block) const override {
    if (block.size() >= kPageSize) {
      const auto footer = load<PlainFooter>(block.bytes.last(sizeof(PlainFooter)));
      if (footer.magic == kPlainMagic && block_size_for(footer.payload_size) == block.size()) {
        return block.sub(0, footer.payload_size);
      }
    }
    return fail(Errc::corrupt, fmt::format("block {}: no footer", ref.to_string()));
  }
  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override {
    return backend_.write(ref, std::move(block), options);
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  ReadOptions options) override {
    return backend_.read(ref, offset, out, options);
  }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       ReadOptions options) override {
    return backend_.try_read(ref, offset, out, options);
  }
  Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) override {
    return backend_.read_block(ref, options);
  }
  std::uint32_t copy_count() const override { return backend_.copy_count(); }

 private:
  BlockBackend& backend_;
};

/// Passes everything on; layers override what they are about.
class PassLayer : public Blockset {
 public:
  explicit PassLayer(std::unique_ptr<Blockset> next) : next_(std::move(next)) {}

  std::uint32_t payload_capacity() const override { return next_->payload_capacity(); }
  std::uint32_t block_size_for(std::uint32_t size) const override {
    return next_->block_size_for(size);
  }
  std::uint32_t seal(const BlockRef& ref, MutableBytes buffer,
                     std::uint32_t payload_size) const override {
    return next_->seal(ref, buffer, payload_size);
  }
  Result<SharedBytes> payload(const BlockRef& ref, SharedBytes block) const override {
    return next_->payload(ref, std::move(block));
  }
  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override {
    return next_->write(ref, std::move(block), options);
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  ReadOptions options) override {
    return next_->read(ref, offset, out, options);
  }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       ReadOptions options) override {
    return next_->try_read(ref, offset, out, options);
  }
  Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) override {
    return next_->read_block(ref, options);
  }
  std::uint32_t copy_count() const override { return next_->copy_count(); }

 protected:
  Blockset& next() { return *next_; }

 private:
  std::unique_ptr<Blockset> next_;
};

class CrcLayer final : public PassLayer {
 public:
  CrcLayer(std::unique_ptr<Blockset> next, std::uint32_t block_size)
      : PassLayer(std::move(next)), payload_capacity_(crc_payload_capacity(block_size)) {}

  std::uint32_t payload_capacity() const override { return payload_capacity_; }
  std::uint32_t block_size_for(std::uint32_t payload_size) const override {
    return crc_block_size(payload_size);
  }
  std::uint32_t seal(const BlockRef& ref, MutableBytes buffer,
                     std::uint32_t payload_size) const override {
    return crc_seal(ref, buffer, payload_size);
  }
  Result<SharedBytes> payload(const BlockRef& ref, SharedBytes block) const override {
    AGRO_TRY(const std::uint32_t size, crc_verify_block(ref, block.bytes));
    return block.sub(0, size);
  }
  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override {
    options.checksummed = true;
    return next().write(ref, std::move(block), options);
  }
  Task<void> read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                  ReadOptions options) override {
    options.check = &check_;
    return next().read(ref, offset, out, options);
  }
  std::optional<Result<void>> try_read(const BlockRef& ref, std::uint32_t offset, MutableBytes out,
                                       ReadOptions options) override {
    options.check = &check_;
    return next().try_read(ref, offset, out, options);
  }
  Task<SharedBytes> read_block(BlockRef ref, ReadOptions options) override {
    options.check = &check_;
    return next().read_block(ref, options);
  }

 private:
  CrcCheck check_;
  std::uint32_t payload_capacity_;
};

class ReplicationLayer final : public PassLayer {
 public:
  ReplicationLayer(std::unique_ptr<Blockset> next, std::uint32_t copy_count)
      : PassLayer(std::move(next)), copy_count_(copy_count) {}
  Task<std::uint32_t> write(BlockRef ref, SharedBytes block, WriteOptions options) override {
    options.copy_count = static_cast<std::uint8_t>(copy_count_);
    return next().write(ref, std::move(block), options);
  }
  std::uint32_t copy_count() const override { return copy_count_; }

 private:
  std::uint32_t copy_count_;
};

Result<LayerSpec> parse_layer(std::string_view text, std::string_view whole) {
  if (text == "base") return LayerSpec{LayerKind::base, 0};
  if (text == "crc") return LayerSpec{LayerKind::crc, 0};
  if (text == "ec" || text.starts_with("ec=")) {
    return fail(Errc::not_supported, "block layer 'ec' comes with a later version of agro");
  }
  constexpr std::string_view kReplication = "replication=";
  if (text.starts_with(kReplication)) {
    const std::string_view number = text.substr(kReplication.size());
    std::uint32_t copies = 0;
    const auto [end, problem] =
        std::from_chars(number.data(), number.data() + number.size(), copies);
    if (problem == std::errc() && end == number.data() + number.size() && copies >= 1 &&
        copies <= 16) {
      return LayerSpec{LayerKind::replication, copies};
    }
    return fail(Errc::invalid_argument,
                fmt::format("block spec '{}': replication takes 1 to 16 copies", whole));
  }
  return fail(Errc::invalid_argument,
              fmt::format("block spec '{}': unknown layer '{}'; the layers are crc, "
                          "replication=R and, last, base",
                          whole, text));
}

}  // namespace

std::string BlocksetSpec::to_string() const {
  std::string text;
  for (const LayerSpec& layer : layers) {
    if (!text.empty()) text += ',';
    switch (layer.kind) {
      case LayerKind::base: text += "base"; break;
      case LayerKind::crc: text += "crc"; break;
      case LayerKind::replication: text += fmt::format("replication={}", layer.argument); break;
    }
  }
  return text;
}

Result<BlocksetSpec> parse_blockset_spec(std::string_view text) {
  BlocksetSpec spec;
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    AGRO_TRY(const LayerSpec layer, parse_layer(rest.substr(0, comma), text));
    for (const LayerSpec& other : spec.layers) {
      if (other.kind == layer.kind) {
        return fail(Errc::invalid_argument, fmt::format("block spec '{}': a layer twice", text));
      }
    }
    spec.layers.push_back(layer);
    const bool last = comma == std::string_view::npos;
    if (last != (layer.kind == LayerKind::base)) {
      return fail(Errc::invalid_argument,
                  fmt::format("block spec '{}': base comes last, and only there", text));
    }
    if (last) return spec;
    rest.remove_prefix(comma + 1);
  }
}

std::vector<PeerId> missing_in(const Reached& first, const Reached& second) {
  std::vector<PeerId> missing;
  for (const Reached* one : {&first, &second}) {
    for (const PeerId& id : one->members) {
      const auto answered = [&id](const Reached& reached) {
        return std::binary_search(reached.answered.begin(), reached.answered.end(), id);
      };
      if (!answered(first) || !answered(second)) missing.push_back(id);
    }
  }
  std::sort(missing.begin(), missing.end());
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  return missing;
}

std::unique_ptr<Blockset> make_blockset(const BlocksetSpec& spec, BlockBackend& backend) {
  AGRO_ASSERT(!spec.layers.empty());
  std::unique_ptr<Blockset> stack;
  for (auto layer = spec.layers.rbegin(); layer != spec.layers.rend(); ++layer) {
    switch (layer->kind) {
      case LayerKind::base: stack = std::make_unique<BaseLayer>(backend); break;
      case LayerKind::crc:
        stack = std::make_unique<CrcLayer>(std::move(stack), backend.block_size());
        break;
      case LayerKind::replication:
        stack = std::make_unique<ReplicationLayer>(std::move(stack), layer->argument);
        break;
    }
  }
  return stack;
}

}  // namespace agro

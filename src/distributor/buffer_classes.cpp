#include "distributor/buffer_classes.hpp"

#include <algorithm>
#include <bit>

namespace agro {
namespace {

/// Idle memory kept per class.
constexpr std::size_t kKeptBytes = std::size_t{8} << 20;

std::size_t class_of(std::size_t size) {
  const std::size_t pages = std::max<std::size_t>((size + kPageSize - 1) / kPageSize, 1);
  return static_cast<std::size_t>(std::bit_width(pages - 1));
}

}  // namespace

BufferClasses::BufferClasses(std::size_t size_max) {
  for (std::size_t index = 0; index <= class_of(size_max); ++index) {
    const std::size_t size = std::size_t{kPageSize} << index;
    pools_.emplace_back(size, std::clamp<std::size_t>(kKeptBytes / size, 2, 256));
  }
}

std::shared_ptr<AlignedBuffer> BufferClasses::take(std::size_t size) {
  const std::size_t index = class_of(size);
  AGRO_ASSERT(index < pools_.size());
  return pools_[index].take();
}

}  // namespace agro

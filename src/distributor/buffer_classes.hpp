// Page-aligned buffers of any size up to a block's, from pools of powers of two.
//
// Threading: as BufferPool: one loop.
#pragma once

#include <memory>
#include <vector>

#include "base/bytes.hpp"

namespace agro {

class BufferClasses {
 public:
  /// Shape: the largest buffer ever asked for, in bytes.
  explicit BufferClasses(std::size_t size_max);

  /// Shape: size <= size_max; the buffer is at least that large.
  std::shared_ptr<AlignedBuffer> take(std::size_t size);

 private:
  std::vector<BufferPool> pools_;  // of kPageSize << index
};

}  // namespace agro

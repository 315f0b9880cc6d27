// The `temp` engine: a block store in memory, gone with the process.
#pragma once

#include <memory>

#include "storage/block_store.hpp"

namespace agro {

struct TempStoreOptions {
  std::uint64_t size = 0;  // bytes of blocks it may hold
  std::uint32_t block_size = kBlockSizeDefault;
};

/// Copies what it is given: the caller's buffers go back to their pools.
std::unique_ptr<BlockStore> make_temp_store(TempStoreOptions options);

}  // namespace agro

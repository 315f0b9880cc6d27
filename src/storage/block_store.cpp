#include "storage/block_store.hpp"

#include <algorithm>

namespace agro {

Task<void> BlockStore::read_stored(BlockRef ref, MutableBytes out) {
  const std::optional<std::uint32_t> size = find(ref);
  if (!size.has_value()) co_return fail(Errc::not_found, ref.to_string() + " is not here");
  co_return co_await read(ref, 0, out.first(std::min<std::size_t>(*size, out.size())));
}

}  // namespace agro

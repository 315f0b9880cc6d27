#include "base/disk.hpp"

namespace agro {

Task<void> File::write_and_sync(std::vector<FileWrite> writes) {
  for (FileWrite& each : writes) AGRO_CO_TRY_OK(co_await write(each.offset, std::move(each.parts)));
  co_return co_await sync();
}

}  // namespace agro

#include "base/disk.hpp"

#include "base/mutant.hpp"

namespace agro {

Task<void> File::write_and_sync(std::vector<FileWrite> writes) {
  for (FileWrite& each : writes) AGRO_CO_TRY_OK(co_await write(std::move(each)));
  if (AGRO_MUTANT(kSyncSkipped)) co_return Result<void>();
  co_return co_await sync();
}

Task<void> File::write_durably(FileWrite write) {
  std::vector<FileWrite> writes;
  writes.push_back(std::move(write));
  return write_and_sync(std::move(writes));
}

}  // namespace agro

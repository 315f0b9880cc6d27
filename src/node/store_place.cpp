#include "node/store_place.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace agro {

Task<std::string> noted_device(Disk& disk, std::string directory) {
  Result<std::string> note = co_await disk.read_file(directory + "/device");
  if (!note.has_value() && note.code() == Errc::not_found) co_return std::string();
  if (!note.has_value()) co_return fail(std::move(note).error());
  while (note->ends_with('\n')) note->pop_back();
  co_return std::move(*note);
}

Task<void> check_store_place(Disk& disk, std::string directory, std::string device) {
  AGRO_CO_TRY(const std::string noted, co_await noted_device(disk, directory));
  if (device.empty() && !noted.empty()) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("the blocks of {} are on {}: give '--storage disk --device {}', or remove "
                               "{}/device if that device is lost",
                               directory, noted, noted, directory));
  }
  AGRO_CO_TRY(const std::vector<std::string> names, co_await disk.list(directory));
  const bool has_blocks = std::find(names.begin(), names.end(), "blocks") != names.end();
  if (!device.empty() && has_blocks) {
    co_return fail(Errc::invalid_argument,
                   fmt::format("{}/blocks holds this peer's blocks: start it without --device, or a new peer "
                               "with another directory",
                               directory));
  }
  co_return Result<void>();
}

Task<void> note_device(Disk& disk, std::string directory, std::string device) {
  AGRO_CO_TRY(const std::string noted, co_await noted_device(disk, directory));
  if (noted == device) co_return Result<void>();
  co_return co_await disk.write_file(directory + "/device", device + "\n");
}

}  // namespace agro

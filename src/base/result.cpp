#include "base/result.hpp"

#include <array>
#include <cerrno>
#include <system_error>

namespace agro {

std::string_view errc_name(Errc code) {
  static constexpr std::array<std::string_view, 20> kNames = {
      "ok",           "invalid_argument", "not_found",     "already_exists", "corrupt",
      "out_of_space", "fenced",           "locked",        "conflict",       "timed_out",
      "unavailable",  "no_quorum",        "closed",        "protocol_error", "io_error",
      "not_supported", "cluster_mismatch", "too_large",    "outcome_unknown",
      "stale_ring"};
  const auto index = static_cast<std::size_t>(code);
  return index < kNames.size() ? kNames[index] : "unknown";
}

std::string Error::to_string() const { return message + " (" + std::string(errc_name(code)) + ")"; }

Error errno_error(std::string_view context, int errno_value, Errc code) {
  if (errno_value == ENOSPC || errno_value == EDQUOT) code = Errc::out_of_space;
  if (errno_value == ENOENT) code = Errc::not_found;
  return Error{code, std::string(context) + ": " + std::generic_category().message(errno_value)};
}

}  // namespace agro

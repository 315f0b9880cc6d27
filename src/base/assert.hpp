// AGRO_ASSERT: a broken contract is a bug of ours, and the program stops before it does harm.
#pragma once

namespace agro {
/// Prints the failed condition and its place, then aborts.
[[noreturn]] void assert_failed(const char* condition, const char* file, int line);
}  // namespace agro

/// Stays on in release builds: a wrong answer from a store costs more than the check.
#define AGRO_ASSERT(condition) \
  (static_cast<bool>(condition) ? void(0) : ::agro::assert_failed(#condition, __FILE__, __LINE__))

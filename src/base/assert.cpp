#include "base/assert.hpp"

#include <cstdio>
#include <cstdlib>

namespace agro {

void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "agro: internal error: %s at %s:%d\n", condition, file, line);
  std::fflush(stderr);
  std::abort();
}

}  // namespace agro

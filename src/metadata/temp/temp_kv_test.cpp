#include "metadata/temp/temp_kv.hpp"

#include "metadata/kv_conformance.hpp"

namespace agro {
namespace {

INSTANTIATE_TYPED_TEST_SUITE_P(Temp, KvConformance, TempBackend);

}  // namespace
}  // namespace agro

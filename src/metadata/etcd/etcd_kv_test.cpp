// The suite of every Kv over a real etcd of one member, and what only etcd has.
#include "metadata/etcd/etcd_kv.hpp"

#include "metadata/etcd/etcd_testing.hpp"
#include "metadata/kv_conformance.hpp"

namespace agro {
namespace {

INSTANTIATE_TYPED_TEST_SUITE_P(Etcd, KvConformance, EtcdBackend);

}  // namespace
}  // namespace agro

// Fuzzes what an etcd, or what poses as one, answers: any message becomes entries and events.
#include <google/protobuf/stubs/logging.h>

#include <cstdint>

#include "base/assert.hpp"
#include "metadata/etcd/etcd_requests.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;  // NOLINT: a program of its own
  google::protobuf::SetLogHandler(nullptr);
  if (size == 0) return 0;
  const std::size_t prefix_size = data[0] % 16;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  etcdserverpb::RangeResponse range;
  if (range.ParseFromString(bytes)) {
    for (const auto& kv : range.kvs()) {
      const KeyValue entry = etcd::entry_of(kv, prefix_size);
      AGRO_ASSERT(entry.key.size() <= kv.key().size());
    }
  }
  etcdserverpb::WatchResponse watch;
  if (watch.ParseFromString(bytes)) {
    for (const auto& event : watch.events()) (void)etcd::event_of(event, prefix_size);
  }
  return 0;
}

#include "metadata/dump.hpp"

#include <fmt/format.h>

#include "base/crc32c.hpp"
#include "metadata/etcd/etcd_testing.hpp"
#include "metadata/keys.hpp"
#include "metadata/metadata.hpp"

namespace agro {
namespace {

template <class Backend>
class DumpTest : public ::testing::Test {
 protected:
  void TearDown() override { backend.test.must(kv->close()); }
  /// A cluster with `volume_count` volumes, a peer that runs, and an open volume.
  void fill(int volume_count) {
    ClusterRecord cluster;
    cluster.block_spec = "crc,base";
    RingSpec ring;
    ring.version = 1;
    backend.test.must(metadata.init_cluster(cluster, ring));
    for (int index = 0; index < volume_count; ++index) {
      backend.test.must(metadata.create_volume({.name = "v" + std::to_string(index),
                                                .size = 4096,
                                                .block_spec = "",
                                                .replication = 0}));
    }
    lease = backend.test.must(kv->grant_lease(std::chrono::hours(1)));
    PeerRecord peer;
    peer.id.bytes.fill(7);
    backend.test.must(metadata.register_peer(peer, lease));
    backend.test.must(metadata.acquire_volume({1}, lease, "A"));
  }
  std::string all() {
    std::string text;
    for (const KeyValue& entry : backend.test.must(kv->list("")).entries) {
      text += entry.key + "=" + entry.value + "\n";
    }
    return text;
  }

  Backend backend;
  std::unique_ptr<Kv> kv = backend.connect();
  Metadata metadata{backend.test.env, *kv};
  std::uint64_t lease = 0;
};

using Backends = ::testing::Types<TempBackend, SqliteBackend, EtcdBackend>;
TYPED_TEST_SUITE(DumpTest, Backends);

// Goal: all but what is under a lease comes back, and only into a store that is empty or given up.
TYPED_TEST(DumpTest, ComesBack) {
  auto& test = this->backend.test;
  Kv& store = *this->kv;
  EXPECT_EQ(test.run(dump_metadata(store)).code(), Errc::not_found);
  this->fill(70);  // more keys than a transaction takes
  const std::string dump = test.must(dump_metadata(store));
  EXPECT_EQ(dump.find("alive"), std::string::npos);
  EXPECT_EQ(dump.find("/lock"), std::string::npos);
  EXPECT_EQ(test.run(restore_metadata(store, dump, true)).code(), Errc::locked);
  test.must(store.revoke_lease(this->lease));
  const std::string before = this->all();
  EXPECT_EQ(test.run(restore_metadata(store, dump, false)).code(), Errc::already_exists);
  test.must(this->metadata.create_volume(
      {.name = "later", .size = 4096, .block_spec = "", .replication = 0}));
  EXPECT_EQ(test.must(restore_metadata(store, dump, true)), 3 + 1 + 4 * 70U);
  EXPECT_EQ(this->all(), before);
  test.must(this->metadata.wipe());
  test.must(restore_metadata(store, dump, false));
  EXPECT_EQ(this->all(), before);
  EXPECT_EQ(test.must(dump_metadata(store)).substr(dump.find("entries")),
            dump.substr(dump.find("entries")));
}

// Goal: a dump that was changed anywhere, or is none, is refused, and nothing is touched.
TYPED_TEST(DumpTest, DamageIsNoticed) {
  auto& test = this->backend.test;
  Kv& store = *this->kv;
  this->fill(1);
  test.must(store.revoke_lease(this->lease));
  const std::string before = this->all();
  const std::string dump = test.must(dump_metadata(store));
  for (std::size_t at = 0; at < dump.size(); at += 7) {
    if (at >= dump.find("\"revision\"") && at < dump.find("\"entries\"")) continue;
    std::string damaged = dump;
    if (std::isspace(static_cast<unsigned char>(damaged[at])) != 0) continue;
    damaged[at] = damaged[at] == '0' ? '1' : '0';
    SCOPED_TRACE(at);
    ASSERT_FALSE(test.run(restore_metadata(store, damaged, true)).has_value());
  }
  for (const std::size_t size : {std::size_t{0}, dump.size() / 2, dump.size() - 3}) {
    EXPECT_EQ(test.run(restore_metadata(store, dump.substr(0, size), true)).code(), Errc::corrupt);
  }
  EXPECT_EQ(test.run(restore_metadata(store, "[]", true)).code(), Errc::corrupt);
  EXPECT_EQ(this->all(), before);
}

// Goal: a dump of a newer program, and one with keys that are not ours, are refused by name, though
// their checksums are right; a store in use is no target, an empty one is.
TYPED_TEST(DumpTest, ForeignDumpsAndTargets) {
  auto& test = this->backend.test;
  Kv& store = *this->kv;
  test.must(check_fillable(store, false));
  const auto refusal = [&](const std::string& text) {
    const auto restored = test.run(restore_metadata(store, text, false));
    return restored.has_value() ? "(it was taken)" : restored.error().to_string();
  };
  const auto dump_of = [](int version, const std::string& crc, const std::string& entries) {
    return fmt::format(R"({{"format": "agro-metadata-dump", "version": {}, "revision": 1,)"
                       R"("entries": {}, "crc32c": "{}"}})",
                       version, entries, crc);
  };
  const auto crc_of = [](std::string_view key) {  // of an entry without a value
    const std::string bytes = std::string(key) + '\0' + '\n';
    return fmt::format("{:08x}", crc32c(std::as_bytes(std::span(bytes))));
  };
  EXPECT_EQ(refusal(dump_of(2, "00000000", "[]")),
            "this dump was made by a newer agroctl (not_supported)");
  EXPECT_EQ(refusal(dump_of(1, crc_of("/etc/passwd"), R"([{"key": "/etc/passwd", "value": ""}])")),
            "the dump has a foreign key, /etc/passwd (corrupt)");
  EXPECT_EQ(refusal(dump_of(1, crc_of("/agro/v1/x"), R"([{"key": "/agro/v1/x", "value": ""}])")),
            "the dump has no record of the cluster (corrupt)");
  EXPECT_TRUE(test.must(store.list("")).entries.empty());

  this->fill(1);
  EXPECT_EQ(test.run(check_fillable(store, true)).code(), Errc::locked);
  test.must(store.revoke_lease(this->lease));
  EXPECT_EQ(test.run(check_fillable(store, false)).code(), Errc::already_exists);
  test.must(check_fillable(store, true));
}

}  // namespace
}  // namespace agro

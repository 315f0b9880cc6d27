// Publications and the fence of a node that is gone, over every store that needs no server.
#include "metadata/metadata.hpp"
#include "metadata/test_support.hpp"

namespace agro {
namespace {

template <class Backend>
class PublicationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ClusterRecord cluster;
    cluster.block_size = 1 << 20;
    cluster.block_spec = "crc,base";
    must(a.init_cluster(cluster, RingSpec{.kind = RingKind::empty, .version = 1, .replication = 1, .members = {}, .parts = {}}));
    volume = must(a.create_volume({.name = "demo", .size = 1 << 20, .block_spec = "", .replication = 0})).id;
    lease = must(kv->grant_lease(std::chrono::hours(1)));
  }
  void TearDown() override { must(kv->close()); }
  template <class T>
  T must(Task<T> task) {
    return backend.test.must(std::move(task));
  }
  template <class T>
  Errc code(Task<T> task) {
    return backend.test.run(std::move(task)).code();
  }

  Backend backend;
  std::unique_ptr<Kv> kv = backend.connect();
  Metadata a{backend.test.env, *kv};
  VolumeId volume;
  std::uint64_t lease = 0;
};

using Backends = ::testing::Types<TempBackend, SqliteBackend>;
TYPED_TEST_SUITE(PublicationTest, Backends);

TYPED_TEST(PublicationTest, OneNodeAtATime) {
  EXPECT_EQ(this->code(this->a.find_node("n1")), Errc::not_found);
  EXPECT_EQ(this->code(this->a.register_node("n/1")), Errc::invalid_argument);
  this->must(this->a.register_node("n1"));
  this->must(this->a.register_node("n1"));
  EXPECT_EQ(this->must(this->a.find_node("n1")).id, "n1");
  const Publication first{"n1", false, 1};
  this->must(this->a.publish_volume(this->volume, first));
  this->must(this->a.publish_volume(this->volume, first));
  EXPECT_EQ(this->code(this->a.publish_volume(this->volume, {"n1", true, 1})), Errc::already_exists);
  EXPECT_EQ(this->code(this->a.publish_volume(this->volume, {"n2", false, 1})), Errc::locked);
  EXPECT_EQ(this->code(this->a.publish_volume({77}, first)), Errc::not_found);
  EXPECT_EQ(this->must(this->a.publications(this->volume)), std::vector{first});
  EXPECT_EQ(this->must(this->a.volume_uses()).size(), 1U);
  EXPECT_FALSE(this->must(this->a.unpublish_volume(this->volume, "n2", "x")).has_value());
  EXPECT_EQ(this->must(this->a.publications(this->volume)).size(), 1U);
  EXPECT_FALSE(this->must(this->a.unpublish_volume(this->volume, "n1", "x")).has_value());
  this->must(this->a.publish_volume(this->volume, {"n2", false, 1}));
  EXPECT_FALSE(this->must(this->a.unpublish_volume({77}, "n1", "x")).has_value());
  this->must(this->a.delete_volume("demo"));
  EXPECT_TRUE(this->must(this->a.volume_uses()).empty());
}

// Goal: what a node's writer had is gone with its publication: lock, epoch and lease. Another's lock stays.
TYPED_TEST(PublicationTest, UnpublishingEvictsThatNodesWriterOnly) {
  this->must(this->a.publish_volume(this->volume, {"n1", false, 1}));
  const Epoch epoch = this->must(this->a.acquire_volume(this->volume, this->lease, "csi node n1, pid 3")).epoch;
  const auto evicted = this->must(this->a.unpublish_volume(this->volume, "n1", "csi node n1, "));
  ASSERT_TRUE(evicted.has_value());
  EXPECT_EQ(evicted->holder, "csi node n1, pid 3");
  EXPECT_EQ(this->code(this->a.commit_head(this->volume, epoch, this->lease, VolumeHead{})), Errc::fenced);
  EXPECT_EQ(this->code(this->kv->keep_alive(this->lease)), Errc::not_found);
  const std::uint64_t other = this->must(this->kv->grant_lease(std::chrono::hours(1)));
  EXPECT_EQ(this->code(this->a.resume_volume(this->volume, epoch, other, "csi node n1, pid 3")), Errc::fenced);
  this->must(this->a.publish_volume(this->volume, {"n2", false, 1}));
  const Epoch next = this->must(this->a.acquire_volume(this->volume, other, "agroctl")).epoch;
  EXPECT_GT(next, epoch);
  EXPECT_FALSE(this->must(this->a.unpublish_volume(this->volume, "n2", "csi node n2, ")).has_value());
  this->must(this->a.commit_head(this->volume, next, other, {next, next, 1, 1, 1 << 20, 0}));
}

// Goal: a writer whose lease ended, and that is cut off, cannot take its lock again after its node was unpublished.
TYPED_TEST(PublicationTest, AWriterThatWasCutOffDoesNotComeBack) {
  this->must(this->a.publish_volume(this->volume, {"n1", false, 1}));
  const Epoch epoch = this->must(this->a.acquire_volume(this->volume, this->lease, "csi node n1, pid 3")).epoch;
  this->must(this->kv->revoke_lease(this->lease));
  EXPECT_FALSE(this->must(this->a.unpublish_volume(this->volume, "n1", "csi node n1, ")).has_value());
  const std::uint64_t other = this->must(this->kv->grant_lease(std::chrono::hours(1)));
  EXPECT_EQ(this->code(this->a.resume_volume(this->volume, epoch, other, "csi node n1, pid 3")), Errc::fenced);
}

}  // namespace
}  // namespace agro

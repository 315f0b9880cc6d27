// What a program tells over HTTP: its metrics, whether it is ready, and /api/v1 about the cluster.
//
// Invariants: the cluster is asked at most once a second, however many ask us; one question at a time.
// Threading: one loop.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "internal/http/server.hpp"
#include "node/cluster_report.hpp"
#include "node/peer_node.hpp"
#include "common/serving_loops.hpp"

namespace agro {

class ClusterSource final : public http::Source {
 public:
  /// Everything given outlives the source.
  ClusterSource(Env& env, ClusterClient& cluster) : env_(env), cluster_(cluster) {}
  /// A peer that runs in this process.
  void add_peer(PeerNode& peer) { peers_.push_back(&peer); }
  /// This process serves volumes.
  void set_loops(ServingLoops& loops) { loops_ = &loops; }

  Awaitable<void> add_metrics(MetricsSnapshot& snapshot) override;
  std::vector<http::ReadyCheck> readiness() override;
  std::vector<std::string> topics() const override;
  Task<std::string> answer(std::string topic) override;

 private:
  void add_store_metrics(MetricsSnapshot& snapshot, const PeerNode& peer) const;
  static void add_volume_metrics(const std::vector<VolumeManager::Attached>& attached, MetricsSnapshot& snapshot);
  void add_cluster_metrics(MetricsSnapshot& snapshot) const;
  Task<void> refresh();

  Env& env_;
  ClusterClient& cluster_;
  std::vector<PeerNode*> peers_;
  ServingLoops* loops_ = nullptr;
  AsyncMutex asking_;
  std::optional<ClusterReport> report_;
  TimePoint asked_at_;
};

inline constexpr const char* kHttpHelp =
    "serve /metrics, /healthz, /readyz and /api/v1: HOST:PORT, PORT (of 127.0.0.1) or unix:PATH";
/// The listening addresses of --http. Errors: invalid_argument.
Result<std::vector<Address>> http_addresses(const std::vector<std::string>& texts);

}  // namespace agro

// A network of named hosts on simulated time, with faults on demand.
//
// Invariants: a stream keeps the order of its bytes and loses none while it lives, however they are
// cut on the way; what a partition holds back arrives after it heals, as with TCP. Every delay and
// cut comes from the one Random, and nothing is ordered by address: a seed is a run.
// Threading: one loop. Source: DESIGN.md section 10.
#pragma once

#include <memory>
#include <string>

#include "base/network.hpp"
#include "base/random.hpp"

namespace agro {

/// One direction between two hosts.
struct SimLink {
  Duration latency_min = std::chrono::microseconds(50);
  Duration latency_max = std::chrono::microseconds(200);
  std::uint64_t bytes_per_second = 0;  // 0: no limit
};

/// How a host goes.
enum class SimDeath : std::uint8_t {
  process,  // its kernel resets the connections and refuses new ones
  killed,   // the same, and what still runs of it in here can neither connect nor listen
  machine,  // silence, until it is up again; then the old connections are reset
};

class SimNetwork {
 public:
  /// Shape: `clock` outlives the network and its streams.
  SimNetwork(Executor executor, Clock& clock, Random random);
  ~SimNetwork();
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  /// What the host `name` sees, made at first use; lives as long as the SimNetwork. TCP addresses
  /// name hosts ("127.0.0.1" and "localhost": itself); Unix sockets are the host's own.
  Network& host(const std::string& name);

  /// What deadlines of the host are by; the network's clock, unless set. Shape: it outlives the host.
  void set_clock(const std::string& name, Clock& clock);

  void set_default_link(SimLink link);
  /// Both directions.
  void set_link(const std::string& a, const std::string& b, SimLink link);

  /// Nothing from `from` reaches `to` any more, not even the news that a connection ended.
  void partition_one_way(const std::string& from, const std::string& to);
  /// Neither reaches the other.
  void partition(const std::string& a, const std::string& b);
  /// `name` is cut off from everybody else, hosts of the future included.
  void isolate(const std::string& name);
  /// Ends the partitions between the two.
  void heal(const std::string& a, const std::string& b);
  void heal_all();

  /// Resets every connection between the two, at both ends, at once.
  void reset(const std::string& a, const std::string& b);
  /// Each connection from `from` to `to` that is open now is reset when so many more bytes passed.
  void reset_after(const std::string& from, const std::string& to, std::uint64_t byte_count);

  /// All streams and listeners of the host end now. process: it can listen again at once; killed,
  /// machine: when it is revived.
  void drop_host(const std::string& name, SimDeath death);
  /// After a death.
  void revive_host(const std::string& name);

  /// Streams that are open at both ends, for tests.
  std::size_t connection_count() const;

  struct Core;

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace agro

// State of the distributor's calls under way; private to distributor*.cpp.
#pragma once

#include <algorithm>

#include "distributor/distributor.hpp"

namespace agro {

/// Counts a call under way, for stop().
class Distributor::CallGuard {
 public:
  explicit CallGuard(Distributor& owner) : owner_(owner) { ++owner_.call_count_; }
  ~CallGuard() {
    --owner_.call_count_;
    owner_.calls_changed_.notify_all();
  }
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;

 private:
  Distributor& owner_;
};

/// One question to every peer.
struct Distributor::FanOut {
  std::vector<PeerPtr> waiting;   // asked, and not answered yet
  Event changed;
  std::vector<PeerPtr> answered;  // with success
  std::vector<std::pair<PeerPtr, std::vector<BlockInfo>>> infos;
  bool fenced = false;
};

/// One write, shared with its attempts, which may outlast it.
struct Distributor::WriteOp {
  enum class Phase : std::uint8_t { fresh, slow, ended };
  struct Attempt {
    PeerPtr state;
    TimePoint slow_at;
    Phase phase = Phase::fresh;
    bool stored = false;
  };

  /// Copies at peers that are there still.
  std::uint32_t copies_in_reach() const {
    return static_cast<std::uint32_t>(
        std::count_if(attempts.begin(), attempts.end(), [](const Attempt& attempt) {
          return attempt.stored && attempt.state->peer->connected();
        }));
  }

  PeerWrite request;
  std::uint32_t wanted = 0;
  std::uint32_t least = 0;  // copies that will do from `settle_at` on, when only the silent are left
  TimePoint settle_at;
  std::vector<PeerPtr> candidates;
  std::vector<Attempt> attempts;  // of candidates[0 .. attempts.size())
  std::uint32_t durable_count = 0;
  std::uint32_t full_count = 0;
  bool fenced = false;
  bool stale_ring = false;
  std::string last_problem;
  Event changed;

  std::uint32_t count(Phase phase) const {
    std::uint32_t number = 0;
    for (const Attempt& attempt : attempts) number += attempt.phase == phase ? 1 : 0;
    return number;
  }
};

/// One read: of a range into `out`, or of a whole block into `block`.
struct Distributor::ReadOp {
  BlockRef ref;
  std::uint32_t offset = 0;
  MutableBytes out;
  const ReadCheck* check = nullptr;
  bool whole = false;
  SharedBytes block;

  std::vector<PeerPtr> bad;       // have a copy that does not verify
  std::vector<PeerPtr> answered;  // with success, not_found or a bad copy
  std::vector<PeerPtr> asked;     // in this round, by a hedge
  std::vector<PeerPtr> slow;
  PeerPtr good;
  Error last_problem;
};

}  // namespace agro

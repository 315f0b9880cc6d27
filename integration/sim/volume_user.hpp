// One volume of a scenario, and everybody who uses it: who has it open, what they do, and the oracle.
//
// A user opens the volume on a client, reads all of it and asks the oracle, then works with several
// operations under way at once until told to stop, until the device fails, or until its client dies.
// Invariants: nothing is written before what is there was checked; an operation that a dead client
// or a superseded writer makes is told to nobody. Threading: one loop.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/random.hpp"
#include "sector_oracle.hpp"
#include "sim_cluster.hpp"
#include "trace.hpp"

namespace agro {

/// What went wrong first.
struct Verdict {
  std::optional<std::string> problem;
  void fail(std::string text) {
    if (!problem.has_value()) problem = std::move(text);
  }
  bool failed() const { return problem.has_value(); }
};

/// How a volume is used; drawn from the seed.
struct UserOptions {
  std::uint32_t workers = 2;          // operations under way at once
  Duration think_max{0};              // between operations of a worker
  std::uint64_t hot_units = 256;      // where half of the operations go
  std::uint64_t flush_percent = 12;
  std::uint64_t large_percent = 5;    // writes of up to large_units
  std::uint64_t large_units = 512;
  bool clocks_are_bad = false;        // beyond the bound that leases allow for
};

class VolumeUser {
 public:
  VolumeUser(SimCluster& cluster, Trace& trace, Verdict& verdict, Random random, std::string name,
             std::uint32_t tag, std::uint64_t size_bytes, UserOptions options);

  const std::string& name() const { return name_; }
  std::uint64_t size_bytes() const { return oracle_.unit_count() * SectorOracle::kUnitSize; }

  /// Somebody on that client opens it and works. Shape: the client is up.
  void attach(std::size_t client);
  /// All who have it, or want it, let go.
  void detach();
  /// All but those on that client.
  void detach_others(std::size_t client);
  /// The process of the client died: what it is told from now on it does not hear.
  void client_died(std::size_t client);
  /// Nobody has it or wants it.
  bool idle() const { return attachments_.empty(); }
  /// Who works with it now; nothing: nobody.
  std::optional<std::size_t> worker_client() const;
  /// Somebody on that client has it, or wants it, or lets go.
  bool uses(std::size_t client) const;
  /// No more operations, but it stays open.
  void set_quiet(bool quiet) { quiet_ = quiet; }
  /// No operation is under way.
  bool is_still() const { return under_way_ == 0; }
  /// Operations that ended well, and flushes of them, ever.
  std::uint64_t done_count() const { return done_count_; }
  std::uint64_t flush_count() const { return flush_count_; }
  /// What went wrong last, and when; for people who look for the reason.
  std::string last_error() const;
  /// Asks for a snapshot, and deletes one when there are many. Errors: nobody makes it.
  Task<void> take_snapshot();
  /// Reads snapshots that were not yet checked, on that client: each is a state between the request and the
  /// answer, and the same whenever it is read. Shape: the client is up.
  void check_snapshots(std::size_t client);
  /// Each is to be read once more.
  void recheck_snapshots();
  /// Why not all are checked; empty: they are.
  std::string unchecked_snapshot() const;
  Task<void> delete_snapshots();
  bool reads_snapshots() const;
  std::size_t snapshot_count() const { return snapshots_.size(); }

  /// Reads all of it again, by whoever has it. False: nobody could.
  Task<bool> check_all();

 private:
  struct Attachment {
    std::size_t client = 0;
    std::uint64_t number = 0;
    bool opened = false;
    bool working = false;  // what was there is checked
    bool reused = false;   // the client still had it open
    bool stop = false;
    bool dead = false;
    bool outlaw_wrote = false;  // a write was acknowledged that began after it was superseded
    std::shared_ptr<BlockDevice> device;
  };
  using AttachmentPtr = std::shared_ptr<Attachment>;
  struct Snapshot {
    std::string name;
    std::unique_ptr<SectorOracle> oracle;  // none: a recovery came between, only that it stays is known
    std::uint64_t begun = 0;               // the request
    std::vector<std::byte> seen;           // by who read it first
    bool checked = false;
    bool under_way = false;
    std::string last_error;
  };

  Job use(AttachmentPtr attachment);
  Task<Epoch> last_epoch();
  Task<void> verify(AttachmentPtr attachment);
  Job check_snapshot(std::size_t client, std::shared_ptr<Snapshot> snapshot);
  void judge(Snapshot& snapshot, std::vector<std::byte> bytes);
  Job work(AttachmentPtr attachment, Random random);
  Task<void> one_operation(AttachmentPtr attachment, Random& random);
  Task<void> write(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count, bool quick);
  Task<void> zero(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count, bool trim);
  Task<void> read(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count, bool quick);
  Task<void> status(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count);
  Task<void> flush(AttachmentPtr attachment);
  /// Whether an operation that ended well counts; it is a failure when it must not have.
  bool counts(const AttachmentPtr& attachment, const char* what);
  bool is_newest(const AttachmentPtr& attachment) const { return newest_ == attachment->number; }
  void complain(const std::string& text);
  void note(const char* what, const Error& error);
  std::string host(const AttachmentPtr& attachment) const {
    return SimCluster::client_name(attachment->client);
  }

  SimCluster& cluster_;
  Trace& trace_;
  Verdict& verdict_;
  Random random_;
  std::string name_;
  SectorOracle oracle_;
  UserOptions options_;
  std::vector<AttachmentPtr> attachments_;
  std::vector<std::shared_ptr<Snapshot>> snapshots_;
  std::uint64_t next_snapshot_ = 1;
  std::uint64_t next_number_ = 1;
  std::uint64_t newest_ = 0;  // who opened it last
  Epoch newest_epoch_;
  std::size_t newest_client_ = 0;
  TimePoint newest_since_;
  Epoch verified_;  // whose recovery was checked
  bool quiet_ = false;
  std::string last_error_ = "nothing failed";
  TimePoint last_error_at_;
  std::uint64_t under_way_ = 0;
  std::uint64_t done_count_ = 0;
  std::uint64_t flush_count_ = 0;
};

}  // namespace agro

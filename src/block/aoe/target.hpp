// An AoE target: one block device at one shelf and slot, served to initiators on one Ethernet.
//
// Invariants: a write is durable before its answer, unless told otherwise: the usual initiator never flushes.
// Writes that overlap are done in the order in which their frames came, so that a retransmitted frame cannot undo a
// later write. A device that is no longer ours (fenced, closed) is not answered for. What is malformed, not for us, or
// one too many is dropped and counted; a request that is under way is not begun again when it is retransmitted.
// Threading: one loop. Format: docs/formats/aoe.md.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/metrics.hpp"
#include "block/aoe/protocol.hpp"
#include "block/block_device.hpp"

namespace agro::aoe {

struct TargetOptions {
  std::uint16_t major = 0;  // shelf, below 65535
  std::uint8_t minor = 0;   // slot, below 255
  std::string name{};       // of the volume, for its identity
  std::string config{};     // the config string as it was kept
  /// Answer writes before they are durable: what was not flushed may be lost when this process ends.
  bool write_back = false;
  bool read_only = false;
  std::size_t request_count_max = 128;  // under way at once; the initiator is told
};

class Target {
 public:
  /// Keeps a new config string. Errors: the initiator gets none, and the string stays as it was.
  using KeepConfig = std::function<Task<void>(std::string)>;

  /// Lifetime: ether, device and metrics outlive run().
  Target(Executor executor, Ether& ether, BlockDevice& device, Metrics& metrics, TargetOptions options,
         KeepConfig keep_config);
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  /// Says that it is here, then serves until stop(). Errors: of Ether::receive().
  Task<void> run();
  /// Ends run(), after the requests under way.
  void stop();

 private:
  /// A request under way: what its answer needs.
  struct Request {
    Header header;
    AtaHeader ata;
    std::uint64_t offset = 0;  // bytes
    std::uint64_t size = 0;
    std::vector<std::byte> data;  // of a write that has to wait
  };
  /// Writes that share a flush.
  struct Batch {
    std::optional<Result<void>> outcome;
    Event done;
  };
  struct WaitingWrite {
    std::uint64_t begin;
    std::uint64_t end;
  };
  struct Counters {
    explicit Counters(Metrics& metrics);
    Metric& requests;
    Metric& malformed;
    Metric& foreign;
    Metric& repeated;
    Metric& overload;
    Metric& unanswered;
  };

  void handle(ConstBytes frame);
  bool is_for_us(const Header& header) const;
  void answer(const Header& request, ErrorCode error, std::vector<std::byte> argument);
  void announce();

  void handle_config(const Header& header, ConstBytes argument);
  ConfigMessage config_answer(ConfigCommand command) const;
  Job set_config(Header header, ConfigCommand command, std::string text);
  void handle_mask(const Header& header, ConstBytes argument);
  void handle_reserve(const Header& header, ConstBytes argument);

  void handle_ata(const Header& header, ConstBytes argument);
  void identify(const Request& request);
  Result<void> check_range(const Request& request) const;
  void begin_read(const Request& request);
  void begin_write(const Request& request, ConstBytes data);
  Job read(std::shared_ptr<Request> request);
  Job write(std::shared_ptr<Request> request, bool is_done);
  Job flush(std::shared_ptr<Request> request);
  Task<void> write_in_order(std::shared_ptr<Request> request);
  Task<void> commit();
  Job commit_all();
  bool overlaps_waiting(std::uint64_t begin, std::uint64_t end) const;
  void finish(const Request& request, const Result<void>& done, ConstBytes data);
  std::size_t sectors_max() const;

  Ether& ether_;
  BlockDevice& device_;
  TargetOptions options_;
  KeepConfig keep_config_;
  Counters counters_;
  std::string config_;
  std::set<MacAddress> masks_;     // none: everybody is heard
  std::vector<MacAddress> owners_; // reserved for these; none: for nobody
  std::set<std::pair<MacAddress, std::uint32_t>> under_way_;
  std::list<WaitingWrite> waiting_writes_;  // in order of arrival
  Event write_ended_;
  std::shared_ptr<Batch> next_batch_;
  bool is_committing_ = false;
  bool stopping_ = false;
  TaskGroup jobs_;
};

}  // namespace agro::aoe

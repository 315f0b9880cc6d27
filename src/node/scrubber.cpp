#include "node/scrubber.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/units.hpp"
#include "models/codec.hpp"

namespace agro {
namespace {


}  // namespace

Scrubber::Scrubber(Env& env, ClusterClient& cluster, PeerService& service, ScrubberOptions options)
    : env_(env),
      cluster_(cluster),
      service_(service),
      options_(std::move(options)),
      buffer_(service.block_size()),
      rate_(env.clock, service, options_.rate),
      jobs_(env.executor),
      metric_bytes_(
          env.metrics.get("agro_scrub_bytes_total", "Bytes of blocks verified by scrubs")),
      metric_bad_(env.metrics.get("agro_scrub_bad_blocks_total", "Bad copies that scrubs found")),
      metric_repaired_(env.metrics.get("agro_scrub_repaired_blocks_total",
                                       "Bad copies that scrubs replaced by good ones")),
      metric_lost_(env.metrics.get("agro_scrub_lost_blocks_total",
                                   "Bad copies for which scrubs could reach no good one")) {}

void Scrubber::start() { jobs_.spawn(run()); }

void Scrubber::scrub() {
  wanted_ = true;
  retry_at_ = {};
  wake_.notify_all();
}

ScrubReport Scrubber::report() const {
  ScrubReport report = state_.report;
  report.running = report.running || wanted_;
  return report;
}

Awaitable<void> Scrubber::stop() {
  stopping_ = true;
  wake_.notify_all();
  co_await jobs_.join();
}

// --- when
// -----------------------------------------------------------------------------------------

Awaitable<void> Scrubber::load_state() {
  if (options_.state_path.empty()) co_return;
  const Result<std::string> bytes = co_await env_.disk.read_file(options_.state_path);
  if (bytes.code() == Errc::not_found) co_return;
  Result<ScrubState> state = bytes.has_value() ? decode_scrub_state(*bytes) : fail(bytes.error());
  if (state.has_value()) {
    state_ = std::move(*state);
    co_return;
  }
  log_warning("{}: {}; scrubbing from the beginning", options_.state_path,
              state.error().to_string());
}

Awaitable<void> Scrubber::save_state() {
  save_at_ = env_.clock.now() + options_.save_every;
  if (options_.state_path.empty()) co_return;
  const Result<void> saved = co_await env_.disk.write_file(options_.state_path, encode(state_));
  if (!saved.has_value() && !stopping_) {
    log_warning("{}: {}", options_.state_path, saved.error().to_string());
  }
}

/// Not positive: now. A pass that was interrupted goes on at once; what was never scrubbed is due.
Duration Scrubber::until_due() const {
  if (wanted_ || state_.report.running) return retry_at_ - env_.clock.now();
  if (options_.interval <= Duration(0)) return Duration::max();
  const Duration since =
      std::chrono::milliseconds(env_.clock.unix_time_ms() - state_.report.finished_unix_ms);
  if (state_.report.finished_unix_ms == 0 || since < Duration(0)) return Duration(0);
  return options_.interval - since;
}

Awaitable<void> Scrubber::wait_for(Duration duration) {
  constexpr Duration kLookAgain = std::chrono::hours(1);  // the time of day may jump
  co_await wait_until(wake_, env_.clock, env_.clock.now() + std::min(duration, kLookAgain));
}

Job Scrubber::run() {
  co_await load_state();
  while (!stopping_) {
    if (const Duration wait = until_due(); wait > Duration(0)) {
      co_await wait_for(wait);
      continue;
    }
    if (!state_.report.running) begin_pass();
    const Result<void> done = co_await pass();
    if (stopping_) break;
    if (done.has_value()) {
      state_.report.running = false;
      state_.report.finished_unix_ms = env_.clock.unix_time_ms();
      state_.position.reset();
      const ScrubReport& report = state_.report;
      log_info("peer {}: scrubbed {}: {} blocks bad, {} repaired, {} lost",
               service_.id().to_string(), format_size(report.bytes_done), report.bad_blocks,
               report.repaired_blocks, report.lost_blocks);
    } else {
      state_.report.problem = done.error().to_string();
      retry_at_ = env_.clock.now() + options_.retry_after;
      log_warning("peer {}: scrub: {}; will go on later", service_.id().to_string(),
                  state_.report.problem);
    }
    wanted_ = false;  // who asked while it ran has got it
    co_await save_state();
  }
  if (state_.report.running) co_await save_state();
}

// --- one pass
// -------------------------------------------------------------------------------------

void Scrubber::begin_pass() {
  const std::int64_t finished = state_.report.finished_unix_ms;
  state_ = {};
  state_.report.running = true;
  state_.report.started_unix_ms = env_.clock.unix_time_ms();
  state_.report.finished_unix_ms = finished;
}

Task<void> Scrubber::pass() {
  ScrubReport& report = state_.report;
  report.problem.clear();
  std::vector<BlockInfo> blocks = service_.store().list({});
  if (state_.position.has_value()) {
    std::erase_if(blocks, [this](const BlockInfo& block) { return block.ref <= *state_.position; });
  }
  report.bytes_total = report.bytes_done;
  for (const BlockInfo& block : blocks) report.bytes_total += block.size;
  co_await save_state();
  for (std::size_t index = 0; index < blocks.size() && !stopping_; ++index) {
    const BlockInfo block = blocks[index];
    co_await wait_for_rate(block.size);
    if (stopping_) break;
    AGRO_CO_TRY_OK(co_await check(block));
    report.bytes_done += block.size;
    metric_bytes_.add(block.size);
    state_.position = block.ref;
    if (env_.clock.now() >= save_at_) co_await save_state();
  }
  if (stopping_) co_return Result<void>();
  const Result<void> renewed = co_await service_.store().renew_records();
  if (renewed.code() == Errc::out_of_space)
    report.problem = renewed.error().to_string();
  else if (!renewed.has_value())
    co_return renewed;
  co_return Result<void>();
}

/// Whether the disk still has the block. Errors: not_found, closed.
Task<bool> Scrubber::is_good(BlockInfo block) {
  const MutableBytes place = buffer_.bytes().first(round_up(block.size, kPageSize));
  const Result<void> read = co_await service_.store().read_stored(block.ref, place);
  if (read.code() == Errc::io_error) {
    log_warning("peer {}: block {}: {}", service_.id().to_string(), block.ref.to_string(),
                read.error().to_string());
    co_return false;
  }
  if (!read.has_value()) co_return fail(read.error());
  if (!cluster_.is_checksummed(block.ref.volume)) co_return true;
  const Result<std::uint32_t> verified = crc_verify_block(block.ref, place.first(block.size));
  if (!verified.has_value()) {
    log_warning("peer {}: {}", service_.id().to_string(), verified.error().to_string());
  }
  co_return verified.has_value();
}

/// Errors: those that keep the rest of the pass from doing any good.
Task<void> Scrubber::check(BlockInfo block) {
  const Result<bool> good = co_await is_good(block);
  if (good.has_value() && *good) co_return Result<void>();
  if (good.code() == Errc::closed) co_return fail(good.error());
  // Deleted, or replaced by one of another size just now: there is nothing left to judge.
  if (!good.has_value() || service_.store().find(block.ref) != block.size) {
    co_return Result<void>();
  }
  ++state_.report.bad_blocks;
  metric_bad_.add();
  const Result<void> repaired = co_await repair(block);
  if (repaired.has_value()) {
    ++state_.report.repaired_blocks;
    metric_repaired_.add();
    log_info("peer {}: block {} repaired", service_.id().to_string(), block.ref.to_string());
    co_return Result<void>();
  }
  if (stopping_ || repaired.code() == Errc::closed) co_return repaired;
  if (!service_.store().find(block.ref).has_value()) {
    --state_.report.bad_blocks;  // deleted meanwhile
    co_return Result<void>();
  }
  state_.report.problem = repaired.error().to_string();
  log_warning("peer {}: block {} is not repaired: {}", service_.id().to_string(),
              block.ref.to_string(), state_.report.problem);
  if (repaired.code() == Errc::io_error) co_return repaired;
  co_return Result<void>();
}

/// Errors: io_error, when the store takes no writes any more or what was written is bad again;
/// others are this block's.
Task<void> Scrubber::repair(BlockInfo block) {
  ReadOptions options;
  options.check = cluster_.is_checksummed(block.ref.volume) ? &check_ : nullptr;
  Result<SharedBytes> copy = co_await cluster_.distributor().read_block(block.ref, options);
  if (!copy.has_value()) {
    const bool lost = copy.code() != Errc::closed && service_.store().find(block.ref).has_value();
    if (lost) ++state_.report.lost_blocks;
    if (lost) metric_lost_.add();
    co_return fail(copy.code() == Errc::io_error ? Error{Errc::unavailable, copy.error().message}
                                                 : copy.error());
  }
  if (!service_.store().find(block.ref).has_value()) {
    co_return fail(Errc::not_found, block.ref.to_string() + " was deleted");
  }
  // The read may have repaired it, too: when the copy that it found bad was this one. It is written
  // all the same, for that one may have been good in the page cache and is bad on the disk.
  AGRO_CO_TRY_OK(co_await service_.store().repair(block.ref, std::move(*copy), {}));
  AGRO_CO_TRY(const bool good, co_await is_good(block));
  if (!good)
    co_return fail(Errc::io_error, block.ref.to_string() + " does not verify after repair");
  co_return Result<void>();
}

Awaitable<void> Scrubber::wait_for_rate(std::uint64_t size) {
  const TimePoint at = rate_.book(size);
  while (!stopping_ && env_.clock.now() < at) co_await wait_until(wake_, env_.clock, at);
}

}  // namespace agro

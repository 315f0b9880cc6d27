#include "volume_user.hpp"

#include <algorithm>

namespace agro {
namespace {

constexpr std::uint64_t kUnit = SectorOracle::kUnitSize;
constexpr std::uint64_t kSectorUnits = 8;
constexpr std::uint64_t kVerifySize = 256 * 1024;
/// Data of writers that are none any more: the oracle knows of no such operation.
constexpr std::uint64_t kOutlaw = 0x7000'0000;

/// Errors after which a device never works again.
bool is_final(Errc code) {
  return code == Errc::fenced || code == Errc::closed || code == Errc::invalid_argument;
}

}  // namespace

VolumeUser::VolumeUser(SimCluster& cluster, Trace& trace, Verdict& verdict, Random random,
                       std::string name, std::uint32_t tag, std::uint64_t size_bytes,
                       UserOptions options)
    : cluster_(cluster), trace_(trace), verdict_(verdict), random_(random), name_(std::move(name)),
      oracle_(tag, size_bytes / kUnit), options_(options) {}

void VolumeUser::attach(std::size_t client) {
  auto attachment = std::make_shared<Attachment>();
  attachment->client = client;
  attachment->number = next_number_++;
  attachments_.push_back(attachment);
  cluster_.client_users(client).spawn(use(attachment));
}

void VolumeUser::detach() {
  for (const AttachmentPtr& one : attachments_) one->stop = true;
}

void VolumeUser::detach_others(std::size_t client) {
  for (const AttachmentPtr& one : attachments_) one->stop |= one->client != client;
}

void VolumeUser::client_died(std::size_t client) {
  for (const AttachmentPtr& one : attachments_) {
    if (one->client == client) one->dead = one->stop = true;
  }
}

std::optional<std::size_t> VolumeUser::worker_client() const {
  for (const AttachmentPtr& one : attachments_) {
    if (one->working && !one->stop && is_newest(one)) return one->client;
  }
  return std::nullopt;
}

bool VolumeUser::uses(std::size_t client) const {
  return std::any_of(attachments_.begin(), attachments_.end(), [client](const AttachmentPtr& one) {
    return one->client == client;
  });
}

void VolumeUser::complain(const std::string& text) {
  verdict_.fail(fmt::format("volume {}: {}", name_, text));
}

void VolumeUser::note(const char* what, const Error& error) {
  last_error_ = fmt::format("{}: {}", what, error.to_string());
  last_error_at_ = cluster_.loop.clock().now();
}

std::string VolumeUser::last_error() const {
  if (last_error_at_ == TimePoint()) return last_error_;
  const Duration ago = cluster_.loop.clock().now() - last_error_at_;
  return fmt::format("{} ms ago {}", std::chrono::duration_cast<std::chrono::milliseconds>(ago).count(),
                     last_error_);
}

bool VolumeUser::counts(const AttachmentPtr& attachment, const char* what) {
  if (attachment->dead) return false;
  if (is_newest(attachment)) {
    ++done_count_;
    return true;
  }
  // What was decided in the very instant of the takeover may be heard of just after it.
  if (newest_since_ == cluster_.loop.clock().now()) return false;
  // With clocks beyond their bound a lease may seem valid for too long; then only the peers' fences
  // hold, and they hold what a flush asks for.
  if (!options_.clocks_are_bad) {
    complain(fmt::format("a {} of writer {} ({}) was acknowledged after writer {} had opened it",
                         what, attachment->number, host(attachment), newest_));
  }
  return false;
}

Job VolumeUser::use(AttachmentPtr attachment) {
  trace_.event(host(attachment), "{}: writer {} opens it", name_, attachment->number);
  for (const VolumeManager::Attached& one :
       cluster_.client_manager(attachment->client).attached()) {
    attachment->reused |= one.name == name_;
  }
  Result<std::shared_ptr<BlockDevice>> device =
      co_await cluster_.client_manager(attachment->client).open(name_);
  if (!device.has_value()) {
    trace_.event(host(attachment), "{}: writer {} could not: {}", name_, attachment->number,
                 device.error().to_string());
    note("opening it failed", device.error());
  }
  if (device.has_value() && !attachment->dead) {
    attachment->device = std::move(*device);
    attachment->opened = true;
    // A client that was superseded gives out the device it has, which is fenced, until all let it go.
    // A device that was open already is of the epoch of then, whoever mints one just now.
    const Result<Epoch> epoch = co_await last_epoch();
    const bool is_same = epoch.has_value() && *epoch == newest_epoch_ && attachment->client == newest_client_;
    const bool is_fresh = epoch.has_value() && *epoch != newest_epoch_ && !attachment->reused;
    if (is_same || is_fresh) {
      newest_ = attachment->number;
      newest_epoch_ = *epoch;
      newest_client_ = attachment->client;
      newest_since_ = cluster_.loop.clock().now();
    }
    trace_.event(host(attachment), "{}: writer {} has it", name_, attachment->number);
    const Result<void> verified = co_await verify(attachment);
    attachment->working = verified.has_value();
    TaskGroup workers(cluster_.client_env(attachment->client).executor);
    for (std::uint32_t worker = 0; worker < options_.workers && verified.has_value(); ++worker) {
      workers.spawn(work(attachment, random_.fork()));
    }
    co_await workers.join();
    attachment->working = false;
    attachment->device.reset();
    trace_.event(host(attachment), "{}: writer {} lets go", name_, attachment->number);
  }
  device = fail(Errc::closed, "gone");
  std::erase(attachments_, attachment);
}

/// Every recovery has its own. As the metadata store has it, whatever its connections suffer.
Task<Epoch> VolumeUser::last_epoch() {
  AGRO_CO_TRY(const VolumeRecord volume, co_await cluster_.metadata().find_volume(name_));
  AGRO_CO_TRY(const std::vector<VolumePosition> positions, co_await cluster_.metadata().positions());
  for (const VolumePosition& position : positions) {
    if (position.volume == volume.id) co_return position.epoch;
  }
  co_return fail(Errc::not_found, "the volume has no epoch");
}

/// Reads everything and asks the oracle; tries again for as long as the device may recover.
Task<void> VolumeUser::verify(AttachmentPtr attachment) {
  // Who comes before the client has let go finds no recovered volume, but the one of before.
  AGRO_CO_TRY(const Epoch epoch, co_await last_epoch());
  if (attachment->reused && verified_ == epoch) co_return Result<void>();
  std::vector<std::byte> bytes(size_bytes());
  for (std::uint64_t offset = 0; offset < bytes.size();) {
    if (attachment->stop || verdict_.failed()) co_return fail(Errc::closed, "stopped");
    const std::uint64_t size = std::min(kVerifySize, bytes.size() - offset);
    const Result<void> done = co_await attachment->device->read(
        offset, MutableBytes(bytes).subspan(offset, size));
    if (done.has_value()) {
      if (!counts(attachment, "read")) co_return fail(Errc::closed, "nobody hears it");
      offset += size;
      continue;
    }
    trace_.detail(host(attachment), "{}: reading it: {}", name_, done.error().to_string());
    note("reading all of it failed", done.error());
    if (is_final(done.code())) co_return done;
    co_await sleep_for(cluster_.loop.clock(), std::chrono::milliseconds(200));
  }
  const std::string problem = oracle_.check_recovered(bytes);
  if (!problem.empty()) {
    complain(fmt::format("writer {} on {}: {}", attachment->number, host(attachment), problem));
    co_return fail(Errc::corrupt, "the oracle says no");
  }
  verified_ = epoch;
  trace_.event(host(attachment), "{}: writer {} found it as it should be", name_,
               attachment->number);
  co_return Result<void>();
}

/// What is said to read as zeros must do so.
Task<void> VolumeUser::status(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count) {
  const std::uint64_t begun = oracle_.begin_read();
  const Result<std::vector<StatusExtent>> found =
      co_await attachment->device->status(unit * kUnit, count * kUnit);
  trace_.detail(host(attachment), "{}: status of units {}+{}: {}", name_, unit, count,
                errc_name(found.code()));
  std::string problem;
  if (found.has_value() && counts(attachment, "status")) {
    std::uint64_t at = unit * kUnit;
    for (const StatusExtent& extent : *found) {
      const std::uint64_t end = std::min(at + extent.size, (unit + count) * kUnit);
      if (extent.zero && problem.empty()) {
        problem = oracle_.check_read(at / kUnit, std::vector<std::byte>(end - at), begun);
      }
      at = end;
    }
  }
  oracle_.end_read(begun);
  if (!problem.empty()) complain("said to be zero: " + problem);
  if (!found.has_value()) co_return fail(found.error());
  co_return Result<void>();
}

Task<bool> VolumeUser::check_all() {
  AttachmentPtr attachment;
  for (const AttachmentPtr& one : attachments_) {
    if (one->working && is_newest(one)) attachment = one;
  }
  if (attachment == nullptr) co_return false;
  const std::shared_ptr<BlockDevice> device = attachment->device;
  std::vector<std::byte> bytes(size_bytes());
  const std::uint64_t begun = oracle_.begin_read();
  const Result<void> done = co_await device->read(0, bytes);
  std::string problem;
  if (done.has_value()) problem = oracle_.check_read(0, bytes, begun);
  oracle_.end_read(begun);
  if (!done.has_value()) co_return fail(done.error());
  if (!problem.empty()) complain(problem);
  co_return true;
}

Job VolumeUser::work(AttachmentPtr attachment, Random random) {
  while (!attachment->stop && !verdict_.failed()) {
    if (!quiet_) {
      ++under_way_;
      const Result<void> done = co_await one_operation(attachment, random);
      --under_way_;
      if (!done.has_value()) {
        trace_.detail(host(attachment), "{}: error: {}", name_, done.error().to_string());
        note("an operation failed", done.error());
        if (is_final(done.code())) attachment->stop = true;
      }
    }
    const auto think = static_cast<std::uint64_t>(options_.think_max.count());
    co_await sleep_for(cluster_.loop.clock(),
                       quiet_ ? std::chrono::milliseconds(500)
                              : Duration(100'000 + random.below(think + 1)));
  }
}

Task<void> VolumeUser::one_operation(AttachmentPtr attachment, Random& random) {
  const bool hot = random.chance(1, 2);
  const std::uint64_t limit = hot ? std::min(options_.hot_units, oracle_.unit_count())
                                  : oracle_.unit_count();
  std::uint64_t count = 1 + random.below(random.chance(options_.large_percent, 100)
                                             ? options_.large_units : 4 * kSectorUnits);
  std::uint64_t unit = random.below(limit);
  if (!random.chance(1, 4)) {  // mostly whole sectors
    unit -= unit % kSectorUnits;
    count = round_up(count, kSectorUnits);
  }
  count = std::min(count, oracle_.unit_count() - unit);
  const bool quick = random.chance(1, 2);
  const std::uint64_t kind = random.below(100);
  if (kind < options_.flush_percent) co_return co_await flush(attachment);
  if (kind < options_.flush_percent + 6) co_return co_await zero(attachment, unit, count, true);
  if (kind < options_.flush_percent + 10) co_return co_await zero(attachment, unit, count, false);
  if (kind < options_.flush_percent + 12) {
    co_return co_await status(attachment, unit - unit % kSectorUnits, kSectorUnits);
  }
  if (kind < options_.flush_percent + 35) {
    // Some go on in order.
    const int more = kind % 6 == 0 ? 8 : 0;
    AGRO_CO_TRY_OK(co_await read(attachment, unit, count, quick));
    for (int step = 0; step < more && unit + 2 * count <= oracle_.unit_count() && !attachment->stop; ++step) {
      unit += count;
      AGRO_CO_TRY_OK(co_await read(attachment, unit, count, quick));
    }
    co_return Result<void>();
  }
  AGRO_CO_TRY_OK(co_await write(attachment, unit, count, quick));
  if (random.chance(1, 20)) co_return co_await flush(attachment);  // as FUA does
  co_return Result<void>();
}

Task<void> VolumeUser::write(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count,
                             bool quick) {
  const bool registered = is_newest(attachment) && !attachment->dead;
  std::vector<std::byte> data(count * kUnit, std::byte{0x77});
  const SectorOracle::Op op = registered ? oracle_.begin_write(unit, count, false) : kOutlaw;
  if (registered) oracle_.fill(op, unit, data);
  std::optional<Result<void>> answer;
  if (quick) answer = attachment->device->try_write(unit * kUnit, data);
  if (!answer.has_value()) answer = co_await attachment->device->write(unit * kUnit, data);
  trace_.detail(host(attachment), "{}: write {} of units {}+{}: {}", name_, op, unit, count,
                errc_name(answer->code()));
  if (answer->has_value() && counts(attachment, "write")) oracle_.acknowledge(op);
  if (answer->has_value() && !registered) attachment->outlaw_wrote = true;
  co_return std::move(*answer);
}

Task<void> VolumeUser::zero(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count,
                            bool trim) {
  // A trim is of whole sectors.
  std::uint64_t begin = unit;
  std::uint64_t end = unit + count;
  if (trim) begin = round_up(begin, kSectorUnits);
  if (trim) end = std::max(round_down(end, kSectorUnits), begin);
  const bool registered = is_newest(attachment) && !attachment->dead && begin < end;
  const SectorOracle::Op op = registered ? oracle_.begin_write(begin, end - begin, true) : kOutlaw;
  Result<void> done;
  if (trim) {
    done = co_await attachment->device->trim(unit * kUnit, count * kUnit);
  } else {
    done = co_await attachment->device->write_zeroes(unit * kUnit, count * kUnit, unit % 2 == 0);
  }
  trace_.detail(host(attachment), "{}: {} {} of units {}+{}: {}", name_, trim ? "trim" : "zeroing",
                op, unit, count, errc_name(done.code()));
  if (done.has_value() && counts(attachment, trim ? "trim" : "zeroing") && registered) {
    oracle_.acknowledge(op);
  }
  co_return done;
}

Task<void> VolumeUser::read(AttachmentPtr attachment, std::uint64_t unit, std::uint64_t count,
                            bool quick) {
  std::vector<std::byte> data(count * kUnit, std::byte{0x55});
  const std::uint64_t begun = oracle_.begin_read();
  std::optional<Result<void>> answer;
  if (quick) answer = attachment->device->try_read(unit * kUnit, data);
  if (!answer.has_value()) answer = co_await attachment->device->read(unit * kUnit, data);
  trace_.detail(host(attachment), "{}: read of units {}+{}: {}", name_, unit, count,
                errc_name(answer->code()));
  if (answer->has_value() && counts(attachment, "read")) {
    const std::string problem = oracle_.check_read(unit, data, begun);
    if (!problem.empty()) complain(fmt::format("writer {}: {}", attachment->number, problem));
  }
  oracle_.end_read(begun);
  co_return std::move(*answer);
}

Task<void> VolumeUser::flush(AttachmentPtr attachment) {
  const std::uint64_t begun = oracle_.mark();
  const bool outlaw_wrote = attachment->outlaw_wrote;
  const Result<void> done = co_await attachment->device->flush();
  trace_.detail(host(attachment), "{}: flush begun {}: {}", name_, begun, errc_name(done.code()));
  if (done.has_value() && counts(attachment, "flush")) {
    oracle_.flushed(begun);
    ++flush_count_;
  }
  if (done.has_value() && outlaw_wrote && !attachment->dead && !is_newest(attachment)) {
    complain(fmt::format("a flush of writer {} ({}) covered what it wrote after writer {} had opened it",
                         attachment->number, host(attachment), newest_));
  }
  co_return done;
}

}  // namespace agro

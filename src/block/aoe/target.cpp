#include "block/aoe/target.hpp"

#include <algorithm>
#include <utility>

#include "base/log.hpp"

namespace agro::aoe {
namespace {

constexpr std::uint16_t kFirmware = 0x0100;
constexpr std::size_t kFrameSizeMin = 60;  // Ethernet's, without checksum
constexpr MacAddress kEverybody = {std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF},
                                   std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}};

/// Whoever has the volume now answers, and not we.
bool is_gone(Errc code) { return code == Errc::fenced || code == Errc::closed || code == Errc::locked; }

AtaHeader failed(AtaHeader header, std::uint8_t error) {
  header.command_or_status = kAtaReady | kAtaFailed;
  header.error_or_feature = error;
  return header;
}

}  // namespace

Target::Counters::Counters(Metrics& metrics)
    : requests(metrics.get("agro_aoe_requests_total", "AoE requests that were begun")),
      malformed(metrics.get("agro_aoe_malformed_total", "AoE frames that made no sense, ignored")),
      foreign(metrics.get("agro_aoe_foreign_total", "AoE frames for others or from hosts that are masked, ignored")),
      repeated(metrics.get("agro_aoe_repeated_total", "AoE requests that came again while they were under way")),
      overload(metrics.get("agro_aoe_overload_total", "AoE requests that were one too many, ignored")),
      unanswered(metrics.get("agro_aoe_unanswered_total", "AoE requests not answered because the volume is no longer ours")) {}

Target::Target(Executor executor, Ether& ether, BlockDevice& device, Metrics& metrics, TargetOptions options,
               KeepConfig keep_config)
    : ether_(ether),
      device_(device),
      options_(std::move(options)),
      keep_config_(std::move(keep_config)),
      counters_(metrics),
      config_(options_.config),
      jobs_(executor) {}

Task<void> Target::run() {
  announce();
  ether_.send_queued();
  Result<void> outcome;
  while (!stopping_) {
    const Result<std::vector<ConstBytes>> frames = co_await ether_.receive();
    if (!frames.has_value()) {
      if (!stopping_) outcome = fail(frames.error());
      break;
    }
    for (const ConstBytes frame : *frames) handle(frame);
    ether_.send_queued();
  }
  co_await jobs_.join();
  ether_.send_queued();
  co_return outcome;
}

void Target::stop() {
  stopping_ = true;
  ether_.close();
}

bool Target::is_for_us(const Header& header) const {
  const bool major = header.major == options_.major || header.major == kMajorBroadcast;
  const bool minor = header.minor == options_.minor || header.minor == kMinorBroadcast;
  return major && minor && (masks_.empty() || masks_.contains(header.source));
}

void Target::handle(ConstBytes frame) {
  const Result<Header> header = decode_header(frame);
  if (!header.has_value()) return counters_.malformed.add();
  if ((header->flags & kFlagResponse) != 0 || !is_for_us(*header)) return counters_.foreign.add();
  if (header->version != kVersion) return answer(*header, ErrorCode::version, {});
  const ConstBytes argument = frame.subspan(kHeaderSize);
  switch (header->command) {
    case Command::ata:
      return handle_ata(*header, argument);
    case Command::config:
      return handle_config(*header, argument);
    case Command::mac_mask:
      return handle_mask(*header, argument);
    case Command::reserve:
      return handle_reserve(*header, argument);
  }
  answer(*header, ErrorCode::unknown_command, {});
}

void Target::answer(const Header& request, ErrorCode error, std::vector<std::byte> argument) {
  Header header = request;
  header.destination = request.source;
  header.source = ether_.address();
  header.version = kVersion;
  header.flags = error == ErrorCode::none ? kFlagResponse : kFlagResponse | kFlagError;
  header.error = error;
  header.major = options_.major;
  header.minor = options_.minor;
  std::vector<std::byte> frame(kHeaderSize);
  frame.reserve(std::max(kFrameSizeMin, kHeaderSize + argument.size()));
  encode_header(frame, header);
  frame.insert(frame.end(), argument.begin(), argument.end());
  frame.resize(std::max(kFrameSizeMin, frame.size()));
  ether_.send(std::move(frame));
}

void Target::announce() {
  Header everybody;
  everybody.source = kEverybody;  // the answer's destination
  everybody.command = Command::config;
  answer(everybody, ErrorCode::none, encode_config(config_answer(ConfigCommand::read)));
}

// --- config string, masks, reservation
// ----------------------------------------------------------------

std::size_t Target::sectors_max() const {
  constexpr std::size_t kHeaders = kHeaderSize - kEthernetHeaderSize + kAtaHeaderSize;
  const std::size_t mtu = ether_.mtu();
  return mtu <= kHeaders ? 0 : std::min<std::size_t>((mtu - kHeaders) / kAtaSectorSize, 255);
}

ConfigMessage Target::config_answer(ConfigCommand command) const {
  return {.buffer_count = static_cast<std::uint16_t>(options_.request_count_max),
          .firmware = kFirmware,
          .sector_count_max = static_cast<std::uint8_t>(sectors_max()),
          .command = command,
          .text = config_};
}

void Target::handle_config(const Header& header, ConstBytes argument) {
  const Result<ConfigMessage> message = decode_config(argument);
  if (!message.has_value() || message->text.size() > kConfigStringMax) return counters_.malformed.add();
  switch (message->command) {
    case ConfigCommand::read:
      return answer(header, ErrorCode::none, encode_config(config_answer(message->command)));
    case ConfigCommand::test:
      if (message->text != config_) return;  // who is not meant is silent
      return answer(header, ErrorCode::none, encode_config(config_answer(message->command)));
    case ConfigCommand::test_prefix:
      if (!config_.starts_with(message->text)) return;
      return answer(header, ErrorCode::none, encode_config(config_answer(message->command)));
    case ConfigCommand::set:
      if (!config_.empty() && config_ != message->text) {
        return answer(header, ErrorCode::config_present, encode_config(config_answer(message->command)));
      }
      [[fallthrough]];
    case ConfigCommand::force_set:
      jobs_.spawn(set_config(header, message->command, message->text));
      return;
  }
  answer(header, ErrorCode::bad_argument, encode_config(config_answer(message->command)));
}

/// Answered when it is kept.
Job Target::set_config(Header header, ConfigCommand command, std::string text) {
  const Result<void> kept = co_await keep_config_(text);
  if (!kept.has_value()) {
    log_warning("AoE {}.{}: the config string cannot be kept: {}", options_.major, options_.minor, kept.error().to_string());
    counters_.unanswered.add();
    co_return;
  }
  config_ = std::move(text);
  answer(header, ErrorCode::none, encode_config(config_answer(command)));
  ether_.send_queued();
}

void Target::handle_mask(const Header& header, ConstBytes argument) {
  const Result<MaskMessage> message = decode_mask(argument);
  if (!message.has_value()) return counters_.malformed.add();
  MaskMessage reply;
  reply.command = message->command;
  if (message->command != MaskCommand::read && message->command != MaskCommand::edit)
    return answer(header, ErrorCode::bad_argument, encode_mask(reply));
  // All of them or none.
  std::set<MacAddress> masks = masks_;
  for (const MaskMessage::Entry& entry : message->entries) {
    if (message->command == MaskCommand::read) break;
    if (entry.directive == MaskDirective::add) masks.insert(entry.address);
    else if (entry.directive == MaskDirective::remove) masks.erase(entry.address);
    else if (entry.directive != MaskDirective::none) reply.error = MaskError::bad_directive;
  }
  if (masks.size() > kMacListMax) reply.error = MaskError::full;
  if (reply.error == MaskError::none) masks_ = std::move(masks);
  for (const MacAddress& address : masks_) reply.entries.push_back({MaskDirective::none, address});
  answer(header, ErrorCode::none, encode_mask(reply));
}

void Target::handle_reserve(const Header& header, ConstBytes argument) {
  Result<ReserveMessage> message = decode_reserve(argument);
  if (!message.has_value()) return counters_.malformed.add();
  const bool is_owner = owners_.empty() || std::find(owners_.begin(), owners_.end(), header.source) != owners_.end();
  ErrorCode error = ErrorCode::none;
  if (message->command == ReserveCommand::force_set || (message->command == ReserveCommand::set && is_owner)) {
    owners_ = std::move(message->addresses);
  } else if (message->command == ReserveCommand::set) {
    error = ErrorCode::reserved;
  } else if (message->command != ReserveCommand::read) {
    error = ErrorCode::bad_argument;
  }
  answer(header, error, encode_reserve({message->command, owners_}));
}

// --- ATA
// ------------------------------------------------------------------------------------------------------

void Target::handle_ata(const Header& header, ConstBytes argument) {
  Request request;
  request.header = header;
  const Result<AtaHeader> ata = decode_ata(argument);
  // Nobody reads or writes all disks at once.
  if (!ata.has_value() || header.major == kMajorBroadcast || header.minor == kMinorBroadcast)
    return counters_.malformed.add();
  request.ata = *ata;
  if (!owners_.empty() && std::find(owners_.begin(), owners_.end(), header.source) == owners_.end())
    return answer(header, ErrorCode::reserved, {argument.begin(), argument.begin() + kAtaHeaderSize});
  if (under_way_.contains({header.source, header.tag})) return counters_.repeated.add();
  if (under_way_.size() >= options_.request_count_max) return counters_.overload.add();
  counters_.requests.add();
  request.offset = ata->lba * kAtaSectorSize;
  request.size = std::uint64_t{ata->count} * kAtaSectorSize;
  switch (static_cast<AtaCommand>(ata->command_or_status)) {
    case AtaCommand::identify:
      return identify(request);
    case AtaCommand::read:
    case AtaCommand::read_extended:
      return begin_read(request);
    case AtaCommand::write:
    case AtaCommand::write_extended:
      return begin_write(request, argument.subspan(kAtaHeaderSize));
    case AtaCommand::flush:
    case AtaCommand::flush_extended:
      under_way_.insert({header.source, header.tag});
      return jobs_.spawn(flush(std::make_shared<Request>(std::move(request))));
  }
  finish(request, fail(Errc::not_supported, "an unknown ATA command"), {});
}

void Target::identify(const Request& request) {
  DeviceIdentity identity;
  identity.sector_count = device_.size_bytes() / kAtaSectorSize;
  identity.model = "agro " + options_.name;
  identity.serial = options_.name;
  identity.firmware = AGRO_VERSION;
  identity.has_write_cache = options_.write_back;
  const std::array<std::byte, 512> data = encode_identify(identity);
  finish(request, {}, data);
}

/// Answers, except for a volume that somebody else has. `data` follows the header.
void Target::finish(const Request& request, const Result<void>& done, ConstBytes data) {
  under_way_.erase({request.header.source, request.header.tag});
  AtaHeader header = request.ata;
  switch (done.code()) {
    case Errc::ok:
      header.command_or_status = kAtaReady;
      header.error_or_feature = 0;
      break;
    case Errc::corrupt:
      header = failed(header, kAtaUncorrectable);
      break;
    case Errc::invalid_argument:
      header = failed(header, kAtaNotFound);
      break;
    default:
      if (is_gone(done.code())) return counters_.unanswered.add();
      header = failed(header, kAtaAborted);
  }
  std::vector<std::byte> argument(kAtaHeaderSize);
  encode_ata(argument, header);
  if (done.has_value()) argument.insert(argument.end(), data.begin(), data.end());
  answer(request.header, ErrorCode::none, std::move(argument));
}

Result<void> Target::check_range(const Request& request) const {
  const std::uint64_t end = device_.size_bytes();
  if (request.offset <= end && request.size <= end - request.offset) return {};
  return fail(Errc::invalid_argument, "beyond the end of the device");
}

void Target::begin_read(const Request& request) {
  if (request.ata.count == 0 || request.ata.count > sectors_max())
    return finish(request, fail(Errc::not_supported, "more than a frame takes"), {});
  const Result<void> range = check_range(request);
  if (!range.has_value()) return finish(request, range, {});
  std::vector<std::byte> data(request.size);
  const std::optional<Result<void>> done = device_.try_read(request.offset, data);
  if (done.has_value()) return finish(request, *done, data);
  under_way_.insert({request.header.source, request.header.tag});
  jobs_.spawn(read(std::make_shared<Request>(request)));
}

Job Target::read(std::shared_ptr<Request> request) {
  request->data.resize(request->size);
  const Result<void> done = co_await device_.read(request->offset, request->data);
  finish(*request, done, request->data);
  ether_.send_queued();
}

void Target::begin_write(const Request& request, ConstBytes data) {
  if (data.size() < request.size || request.ata.count == 0) {
    return counters_.malformed.add();
  }
  if (options_.read_only || device_.read_only())
    return finish(request, fail(Errc::not_supported, "the device is read-only"), {});
  const Result<void> range = check_range(request);
  if (!range.has_value()) return finish(request, range, {});
  data = data.first(request.size);
  std::optional<Result<void>> done;
  if (!overlaps_waiting(request.offset, request.offset + request.size)) done = device_.try_write(request.offset, data);
  if (done.has_value() && (!done->has_value() || options_.write_back)) return finish(request, *done, {});
  under_way_.insert({request.header.source, request.header.tag});
  auto shared = std::make_shared<Request>(request);
  if (!done.has_value()) {
    shared->data.assign(data.begin(), data.end());
    waiting_writes_.push_back({request.offset, request.offset + request.size});
  }
  jobs_.spawn(write(std::move(shared), done.has_value()));
}

bool Target::overlaps_waiting(std::uint64_t begin, std::uint64_t end) const {
  return std::any_of(waiting_writes_.begin(), waiting_writes_.end(),
                     [&](const WaitingWrite& one) { return one.begin < end && begin < one.end; });
}

Job Target::write(std::shared_ptr<Request> request, bool is_done) {
  Result<void> done;
  if (!is_done) done = co_await write_in_order(request);
  if (done.has_value() && !options_.write_back) done = co_await commit();
  finish(*request, done, {});
  ether_.send_queued();
}

/// After those that overlap and came before. Its place in the list is the last one, made in the same step.
Task<void> Target::write_in_order(std::shared_ptr<Request> request) {
  const auto place = std::prev(waiting_writes_.end());
  const auto may_go = [this, place] {
    return std::none_of(waiting_writes_.begin(), place, [place](const WaitingWrite& one) {
      return one.begin < place->end && place->begin < one.end;
    });
  };
  while (!may_go()) co_await write_ended_.wait();
  Result<void> done = co_await device_.write(request->offset, request->data);
  waiting_writes_.erase(place);
  write_ended_.notify_all();
  co_return done;
}

Job Target::flush(std::shared_ptr<Request> request) {
  const Result<void> done = co_await commit();
  finish(*request, done, {});
  ether_.send_queued();
}

/// Durable is all that was written before this call. While a flush is under way, whoever comes waits for the next.
Task<void> Target::commit() {
  if (next_batch_ == nullptr) next_batch_ = std::make_shared<Batch>();
  const std::shared_ptr<Batch> batch = next_batch_;
  if (!std::exchange(is_committing_, true)) jobs_.spawn(commit_all());
  while (!batch->outcome.has_value()) co_await batch->done.wait();
  co_return *batch->outcome;
}

Job Target::commit_all() {
  // Frames that came together are written together.
  co_await yield_to_loop();
  while (next_batch_ != nullptr) {
    const std::shared_ptr<Batch> batch = std::exchange(next_batch_, nullptr);
    batch->outcome = co_await device_.flush();
    batch->done.notify_all();
  }
  is_committing_ = false;
}

}  // namespace agro::aoe

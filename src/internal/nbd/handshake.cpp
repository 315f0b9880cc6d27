#include "internal/nbd/handshake.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace agro::nbd {

namespace {

/// Longest option data that we look at; longer is skipped and answered "too big".
constexpr std::uint32_t kOptionDataSizeMax = 64U << 10;
/// Longest that we skip.
constexpr std::uint32_t kOptionSkipSizeMax = kPayloadSizeMax;

Result<std::string> resolve(DeviceProvider& provider, std::string name) {
  if (!name.empty()) return name;
  std::vector<DeviceProvider::Export> exports = provider.list();
  if (exports.size() == 1) return std::move(exports.front().name);
  return fail(Errc::not_found, fmt::format("there are {} exports, so none is the default: name one",
                                           exports.size()));
}

OptionReplyType to_reply_type(Errc code) {
  switch (code) {
    case Errc::not_found:
      return OptionReplyType::error_unknown_export;
    case Errc::invalid_argument:
      return OptionReplyType::error_invalid;
    case Errc::closed:
      return OptionReplyType::error_shutdown;
    default:
      return OptionReplyType::error_policy;
  }
}

/// The state of one handshake.
class Handshake {
 public:
  Handshake(std::unique_ptr<Stream>& stream, InputBuffer& input, const Offer& offer, Haggling& haggling)
      : stream_(stream), input_(input), offer_(offer), provider_(offer.provider), state_(haggling) {}

  /// The greeting and the client's flags.
  Task<void> greet();
  /// Serves what came here from another server; true when the handshake is over.
  Task<bool> serve_request();
  /// Serves one option; true when the handshake is over here.
  Task<bool> serve_option();
  Agreement take_agreement() { return std::move(agreement_); }

 private:
  Task<void> skip(std::size_t size);
  bool needs_tls(Option option) const;
  Task<void> start_tls();
  Task<bool> is_elsewhere(Option option, const std::string& data);
  Task<bool> serve_and_send(Option option, std::string data);
  Task<bool> serve(Option option, std::string data);
  Task<bool> serve_export_name(std::string name);
  Task<bool> serve_info_or_go(Option option, std::string data);
  void serve_list();
  void serve_meta_context(Option option, const std::string& data);

  /// Queues one reply; send() sends them all.
  void reply(Option option, OptionReplyType type, std::string_view data = {});
  Task<void> send();

  std::unique_ptr<Stream>& stream_;
  InputBuffer& input_;
  const Offer& offer_;
  DeviceProvider& provider_;
  Haggling& state_;
  std::string output_;
  Agreement agreement_;
};

void Handshake::reply(Option option, OptionReplyType type, std::string_view data) {
  std::array<std::byte, kOptionReplyHeaderSize> header;
  encode_option_reply_header(
      header, {.option = option, .type = type, .size = static_cast<std::uint32_t>(data.size())});
  output_ += as_text(header);
  output_ += data;
}

Task<void> Handshake::send() {
  const std::string output = std::exchange(output_, {});
  std::vector<ConstBytes> parts;
  parts.push_back(as_bytes(output));
  co_return co_await stream_->write(std::move(parts));
}

Task<void> Handshake::greet() {
  std::array<std::byte, kGreetingSize> greeting;
  encode_greeting(greeting, kFixedNewstyle | kNoZeroes);
  output_ += as_text(greeting);
  AGRO_CO_TRY_OK(co_await send());
  AGRO_CO_TRY_OK(co_await input_.fill(*stream_, kClientFlagsSize, input_.capacity()));
  const auto flags = load_be<std::uint32_t>(input_.bytes());
  input_.consume(kClientFlagsSize);
  if ((flags & ~std::uint32_t{kFixedNewstyle | kNoZeroes}) != 0) {
    co_return fail(Errc::protocol_error, fmt::format("unknown client flags {:#x}", flags));
  }
  state_.greeted = true;
  state_.fixed = (flags & kFixedNewstyle) != 0;
  state_.no_zeroes = (flags & kNoZeroes) != 0;
  co_return Result<void>();
}

Task<void> Handshake::skip(std::size_t size) {
  while (size > 0) {
    if (input_.size() == 0) AGRO_CO_TRY_OK(co_await input_.fill(*stream_, 1, input_.capacity()));
    const std::size_t count = std::min(size, input_.size());
    input_.consume(count);
    size -= count;
  }
  co_return Result<void>();
}

Task<bool> Handshake::serve_option() {
  AGRO_CO_TRY_OK(co_await input_.fill(*stream_, kOptionHeaderSize, input_.capacity()));
  AGRO_CO_TRY(const OptionHeader header, decode_option_header(input_.bytes()));
  input_.consume(kOptionHeaderSize);
  if (!state_.fixed && header.option != Option::export_name) {
    co_return fail(Errc::protocol_error,
                   fmt::format("option {} from a client without fixed newstyle",
                               static_cast<std::uint32_t>(header.option)));
  }
  if (header.size > kOptionSkipSizeMax) {
    co_return fail(Errc::protocol_error, fmt::format("an option of {} bytes", header.size));
  }
  if (header.size > kOptionDataSizeMax) {
    if (header.option == Option::export_name) {
      co_return fail(Errc::protocol_error, "an export name longer than 4096 bytes");
    }
    AGRO_CO_TRY_OK(co_await skip(header.size));
    reply(header.option, OptionReplyType::error_too_big, "option data longer than 64 KiB");
    AGRO_CO_TRY_OK(co_await send());
    co_return false;
  }
  AGRO_CO_TRY_OK(co_await input_.fill(*stream_, header.size, input_.capacity()));
  std::string data(as_text(input_.bytes().first(header.size)));
  input_.consume(header.size);
  AGRO_CO_TRY(const bool elsewhere, co_await is_elsewhere(header.option, data));
  if (elsewhere) {
    state_.request = Haggling::Request{header.option, std::move(data)};
    co_return true;
  }
  co_return co_await serve_and_send(header.option, std::move(data));
}

Task<bool> Handshake::serve_request() {
  Haggling::Request request = *std::exchange(state_.request, std::nullopt);
  co_return co_await serve_and_send(request.option, std::move(request.data));
}

Task<bool> Handshake::serve_and_send(Option option, std::string data) {
  AGRO_CO_TRY(const bool ended, co_await serve(option, std::move(data)));
  if (!output_.empty()) {
    const Result<void> sent = co_await send();
    // Who sends ABORT may close without reading our answer.
    if (!sent.has_value() && option != Option::abort) co_return fail(sent.error());
  }
  co_return ended;
}

/// Whether `option` names an export that another server has. What is wrong with it is for serve() to say.
Task<bool> Handshake::is_elsewhere(Option option, const std::string& data) {
  const bool names_one = option == Option::export_name || option == Option::info || option == Option::go;
  if (offer_.siblings == nullptr || !names_one || needs_tls(option)) co_return false;
  std::string name = data;
  if (option != Option::export_name) {
    Result<InfoRequest> request = decode_info_request(as_bytes(data));
    if (!request.has_value()) co_return false;
    name = std::move(request->name);
  }
  Result<std::string> resolved = resolve(provider_, std::move(name));
  if (!resolved.has_value()) co_return false;
  agreement_.elsewhere = co_await offer_.siblings->server_of(std::move(*resolved));
  co_return agreement_.elsewhere != nullptr;
}

/// Whether `option` is one that a server with certificates does not serve in the clear.
bool Handshake::needs_tls(Option option) const {
  return offer_.tls != nullptr && !state_.is_secure && option != Option::start_tls && option != Option::abort;
}

Task<void> Handshake::start_tls() {
  if (offer_.tls == nullptr) {
    reply(Option::start_tls, OptionReplyType::error_unsupported, "this server has no TLS: --tls-certificates gives it some");
    co_return Result<void>();
  }
  if (state_.is_secure) {
    reply(Option::start_tls, OptionReplyType::error_invalid, "TLS is on already");
    co_return Result<void>();
  }
  // Who has a hand in the connection could put these before what the client says later, inside of TLS.
  if (input_.size() > 0) co_return fail(Errc::protocol_error, "bytes in the clear behind STARTTLS");
  reply(Option::start_tls, OptionReplyType::ack);
  AGRO_CO_TRY_OK(co_await send());
  auto secure = std::make_unique<TlsStream>(std::move(stream_), offer_.tls);
  TlsStream& started = *secure;
  stream_ = std::move(secure);
  state_.is_secure = true;
  co_return co_await started.start();
}

Task<bool> Handshake::serve(Option option, std::string data) {
  if (needs_tls(option)) {
    if (option == Option::export_name) co_return fail(Errc::protocol_error, "an export without TLS, which this server wants");
    reply(option, OptionReplyType::error_tls_required, "this server wants TLS: send STARTTLS first");
    co_return false;
  }
  const bool wants_no_data = option == Option::abort || option == Option::list ||
                             option == Option::start_tls || option == Option::structured_reply;
  if (wants_no_data && !data.empty()) {
    reply(option, OptionReplyType::error_invalid, "this option takes no data");
    co_return false;
  }
  switch (option) {
    case Option::export_name: {
      co_return co_await serve_export_name(std::move(data));
    }
    case Option::info:
    case Option::go: {
      co_return co_await serve_info_or_go(option, std::move(data));
    }
    case Option::abort:
      reply(option, OptionReplyType::ack);
      co_return true;
    case Option::list:
      serve_list();
      break;
    case Option::structured_reply:
      state_.structured_replies = true;
      reply(option, OptionReplyType::ack);
      break;
    case Option::list_meta_context:
    case Option::set_meta_context:
      serve_meta_context(option, data);
      break;
    case Option::start_tls:
      AGRO_CO_TRY_OK(co_await start_tls());
      break;
    default:
      reply(option, OptionReplyType::error_unsupported, "unknown option");
  }
  co_return false;
}

void Handshake::serve_list() {
  for (const DeviceProvider::Export& one : provider_.list()) {
    reply(Option::list, OptionReplyType::server, encode_server_data(one.name, one.description));
  }
  reply(Option::list, OptionReplyType::ack);
}

Task<bool> Handshake::serve_export_name(std::string name) {
  if (name.size() > kStringSizeMax) {
    co_return fail(Errc::protocol_error, "an export name longer than 4096 bytes");
  }
  AGRO_CO_TRY(std::string resolved, resolve(provider_, std::move(name)));
  AGRO_CO_TRY(std::shared_ptr<BlockDevice> device, co_await provider_.open(resolved));
  std::array<std::byte, kExportNameReplySize + kExportNameZeroesSize> out;
  const std::uint16_t flags = transmission_flags(device->read_only(), state_.structured_replies);
  const std::size_t size = encode_export_name_reply(out, device->size_bytes(), flags, !state_.no_zeroes);
  output_ += as_text(out).substr(0, size);
  agreement_.session = Session{.export_name = resolved,
                               .device = std::move(device),
                               .structured_replies = state_.structured_replies,
                               .base_allocation = state_.meta_export == resolved};
  co_return true;
}

Task<bool> Handshake::serve_info_or_go(Option option, std::string data) {
  const Result<InfoRequest> request = decode_info_request(as_bytes(data));
  if (!request.has_value()) {
    reply(option, OptionReplyType::error_invalid, request.error().message);
    co_return false;
  }
  const Result<std::string> name = resolve(provider_, request->name);
  if (!name.has_value()) {
    reply(option, to_reply_type(name.error().code), name.error().message);
    co_return false;
  }
  DeviceProvider::Export facts{
      .name = *name, .description = {}, .size_bytes = 0, .read_only = false};
  bool listed = false;
  for (DeviceProvider::Export& one : provider_.list()) {
    if (one.name != *name) continue;
    facts = std::move(one);
    listed = true;
  }
  std::shared_ptr<BlockDevice> device;
  if (option == Option::go || !listed) {
    Result<std::shared_ptr<BlockDevice>> opened = co_await provider_.open(*name);
    if (!opened.has_value()) {
      reply(option, to_reply_type(opened.error().code), opened.error().message);
      co_return false;
    }
    device = std::move(*opened);
    facts.size_bytes = device->size_bytes();
    facts.read_only = device->read_only();
  }
  const std::uint16_t flags = transmission_flags(facts.read_only, state_.structured_replies);
  reply(option, OptionReplyType::info, encode_info_export(facts.size_bytes, flags));
  for (const InfoType type : request->types) {
    if (type == InfoType::name || (type == InfoType::description && !facts.description.empty())) {
      const std::string& text = type == InfoType::name ? facts.name : facts.description;
      reply(option, OptionReplyType::info, encode_info_text(type, text));
    }
    if (type == InfoType::block_size) {
      reply(option, OptionReplyType::info,
            encode_info_block_size(kBlockSizeMin, kBlockSizePreferred, kPayloadSizeMax));
    }
  }
  reply(option, OptionReplyType::ack);
  if (option == Option::info) co_return false;
  agreement_.session = Session{.export_name = *name,
                               .device = std::move(device),
                               .structured_replies = state_.structured_replies,
                               .base_allocation = state_.meta_export == *name};
  co_return true;
}

/// LIST answers what there is, SET selects it. Queries that match nothing are no error.
void Handshake::serve_meta_context(Option option, const std::string& data) {
  const bool is_set = option == Option::set_meta_context;
  if (is_set) state_.meta_export.reset();
  if (!state_.structured_replies) {
    reply(option, OptionReplyType::error_invalid, "negotiate structured replies first");
    return;
  }
  const Result<MetaRequest> request = decode_meta_request(as_bytes(data));
  if (!request.has_value()) {
    reply(option, OptionReplyType::error_invalid, request.error().message);
    return;
  }
  const Result<std::string> name = resolve(provider_, request->name);
  if (!name.has_value()) {
    reply(option, to_reply_type(name.error().code), name.error().message);
    return;
  }
  bool matches = !is_set && request->queries.empty();
  for (const std::string& query : request->queries) {
    matches = matches || query == kBaseAllocation || (!is_set && query == "base:");
  }
  if (matches) {
    const std::uint32_t id = is_set ? kBaseAllocationId : 0;
    reply(option, OptionReplyType::meta_context, encode_meta_context(id, kBaseAllocation));
    if (is_set) state_.meta_export = *name;
  }
  reply(option, OptionReplyType::ack);
}

}  // namespace

std::uint16_t transmission_flags(bool read_only, bool structured_replies) {
  unsigned flags = kHasFlags | kSendFlush | kSendFua | kCanMultiConn | kSendCache;
  flags |= read_only ? unsigned{kReadOnly} : unsigned{kSendTrim | kSendWriteZeroes | kSendFastZero};
  if (structured_replies) flags |= kSendDontFragment;
  return static_cast<std::uint16_t>(flags);
}

Task<Agreement> negotiate(std::unique_ptr<Stream>& stream, InputBuffer& input, const Offer& offer, Haggling& haggling) {
  Handshake handshake(stream, input, offer, haggling);
  if (!haggling.greeted) AGRO_CO_TRY_OK(co_await handshake.greet());
  bool ended = false;
  if (haggling.request.has_value()) {
    AGRO_CO_TRY(ended, co_await handshake.serve_request());
  }
  while (!ended) {
    AGRO_CO_TRY(ended, co_await handshake.serve_option());
  }
  co_return handshake.take_agreement();
}

}  // namespace agro::nbd

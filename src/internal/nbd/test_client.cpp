#include "internal/nbd/test_client.hpp"

#include <algorithm>

namespace agro::nbd {

void MemoryPipe::drop(std::size_t count) {
  taken += count;
  if (2 * taken >= bytes.size()) {
    bytes.erase(0, taken);
    taken = 0;
  }
}

Task<std::size_t> MemoryStream::read_some(MutableBytes out) {
  const std::shared_ptr<MemoryPipe> pipe = in_;
  while (pipe->view().empty()) {
    if (pipe->closed) co_return fail(Errc::closed, "memory stream closed");
    co_await pipe->changed.wait();
  }
  const std::size_t count = std::min(out.size(), pipe->view().size());
  std::memcpy(out.data(), pipe->view().data(), count);
  pipe->drop(count);
  pipe->changed.notify_all();
  co_return count;
}

Task<void> MemoryStream::write(std::vector<ConstBytes> parts) {
  ++write_call_count_;
  const std::shared_ptr<MemoryPipe> pipe = out_;
  for (ConstBytes part : parts) {
    while (!part.empty()) {
      if (pipe->closed) co_return fail(Errc::closed, "memory stream closed");
      const std::size_t count = std::min(part.size(), pipe->capacity - pipe->view().size());
      if (count == 0) {
        co_await pipe->changed.wait();
        continue;
      }
      pipe->bytes += as_text(part.first(count));
      part = part.subspan(count);
      pipe->changed.notify_all();
    }
  }
  co_return Result<void>();
}

void MemoryStream::close() {
  for (const auto& pipe : {in_, out_}) {
    pipe->closed = true;
    pipe->changed.notify_all();
  }
}

ServerFixture::ServerFixture(ServerOptions options)
    : server(std::make_unique<Server>(loop.get_executor(), clock, metrics, provider, options)) {}

ServerFixture::~ServerFixture() {
  start_stop();
  run();
  clock.advance(std::chrono::hours(1));  // past the drain's deadline
  run();
  AGRO_ASSERT(stopped_);
}

void ServerFixture::run() {
  loop.restart();
  loop.poll();
}

namespace {
Job stop_server(Server& server, bool& stopped) {
  co_await server.stop();
  stopped = true;
}
}  // namespace

void ServerFixture::start_stop() {
  if (std::exchange(stop_started_, true)) return;
  spawn(loop.get_executor(), stop_server(*server, stopped_));
}

TestClient::TestClient(ServerFixture& fixture, std::size_t reply_capacity)
    : fixture_(fixture),
      to_server_(std::make_shared<MemoryPipe>(std::size_t{1} << 40)),
      from_server_(std::make_shared<MemoryPipe>(reply_capacity)) {
  fixture.server->serve(std::make_unique<MemoryStream>(to_server_, from_server_));
}

TestClient::~TestClient() { close(); }

void TestClient::send(std::string_view bytes) {
  to_server_->bytes += bytes;
  to_server_->changed.notify_all();
}

std::string TestClient::receive(std::size_t size) {
  std::string bytes;
  for (;;) {
    fixture_.run();
    const std::size_t count = std::min(size - bytes.size(), from_server_->view().size());
    if (count == 0) return bytes;
    bytes += from_server_->view().substr(0, count);
    from_server_->drop(count);
    from_server_->changed.notify_all();
  }
}

std::string_view TestClient::pending() {
  fixture_.run();
  return from_server_->view();
}

bool TestClient::closed() {
  fixture_.run();
  return from_server_->closed;
}

void TestClient::close() {
  close_sending();
  from_server_->closed = true;
  from_server_->changed.notify_all();
}

void TestClient::close_sending() {
  to_server_->closed = true;
  to_server_->changed.notify_all();
}

void TestClient::greet(std::uint32_t flags) {
  receive(kGreetingSize);
  std::string bytes(kClientFlagsSize, '\0');
  store_be(MutableBytes(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()), flags);
  send(bytes);
}

void TestClient::send_option(Option option, std::string_view data) {
  std::byte header[kOptionHeaderSize];
  encode_option_header(header, {.option = option, .size = static_cast<std::uint32_t>(data.size())});
  send(as_text(header));
  send(data);
}

OptionAnswer TestClient::receive_option_reply(Option option) {
  const std::string head = receive(kOptionReplyHeaderSize);
  if (head.size() < kOptionReplyHeaderSize) return {};
  const Result<OptionReplyHeader> header = decode_option_reply_header(as_bytes(head));
  if (!header.has_value() || header->option != option) return {};
  std::string data = receive(header->size);
  return {.type = header->type, .data = std::move(data)};
}

void TestClient::attach(const std::string& name, bool structured) {
  greet();
  structured_ = structured;
  if (structured) {
    send_option(Option::structured_reply);
    AGRO_ASSERT(receive_option_reply(Option::structured_reply).type == OptionReplyType::ack);
    send_option(Option::set_meta_context,
                encode_meta_request({.name = name, .queries = {std::string(kBaseAllocation)}}));
    for (const OptionReplyType type : {OptionReplyType::meta_context, OptionReplyType::ack}) {
      AGRO_ASSERT(receive_option_reply(Option::set_meta_context).type == type);
    }
  }
  send_option(Option::go, encode_info_request({.name = name, .types = {}}));
  for (const OptionReplyType type : {OptionReplyType::info, OptionReplyType::ack}) {
    AGRO_ASSERT(receive_option_reply(Option::go).type == type);
  }
}

void TestClient::send_request(const Request& request, std::string_view payload) {
  std::byte header[kRequestSize];
  encode_request(header, request);
  send(as_text(header));
  send(payload);
}

Answer TestClient::receive_answer(std::size_t size) {
  Answer answer;
  for (;;) {
    std::string head = receive(kSimpleReplySize);
    if (head.size() < kSimpleReplySize) {
      answer.message = "no reply";
      answer.error = WireError::enomem;  // which the server never sends
      return answer;
    }
    if (const Result<SimpleReply> simple = decode_simple_reply(as_bytes(head));
        simple.has_value()) {
      answer.cookie = simple->cookie;
      answer.error = simple->error;
      if (simple->error == WireError::none) answer.data = receive(size);
      return answer;
    }
    head += receive(kChunkHeaderSize - kSimpleReplySize);
    const Result<ChunkHeader> chunk = decode_chunk_header(as_bytes(head));
    AGRO_ASSERT(chunk.has_value());
    const std::string payload = receive(chunk->size);
    const ConstBytes bytes = as_bytes(payload);
    answer.structured = true;
    answer.cookie = chunk->cookie;
    if (chunk->type == ChunkType::offset_data) {
      const auto offset = load_be<std::uint64_t>(bytes);
      if (answer.data_chunk_count++ == 0) answer.offset = offset;
      AGRO_ASSERT(offset == answer.offset + answer.data.size());  // we send them in order
      answer.data += payload.substr(8);
    }
    if (chunk->type == ChunkType::error) {
      answer.error = static_cast<WireError>(load_be<std::uint32_t>(bytes));
      answer.message = payload.substr(6, load_be<std::uint16_t>(bytes.subspan(4)));
    }
    if (chunk->type == ChunkType::block_status) {
      for (std::size_t at = 4; at < bytes.size(); at += 8) {
        answer.extents.push_back({.size = load_be<std::uint32_t>(bytes.subspan(at)),
                                  .flags = load_be<std::uint32_t>(bytes.subspan(at + 4))});
      }
    }
    if ((chunk->flags & kChunkDone) != 0) return answer;
  }
}

Answer TestClient::ask(const Request& request, std::string_view payload) {
  send_request(request, payload);
  return receive_answer(request.command == Command::read ? request.size : 0);
}

std::string pattern(std::size_t size, std::uint64_t seed) {
  std::string bytes(size, '\0');
  Random random(seed);
  std::size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
  for (; at < size; ++at) bytes[at] = static_cast<char>(random.next());
  return bytes;
}

}  // namespace agro::nbd

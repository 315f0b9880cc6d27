// What the NBD tests and fuzzers share: streams in memory, a clock that stands until told, and a
// client that speaks the protocol by hand, byte by byte, driving the loop itself.
//
// Threading: one loop, run inside the calls.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/network.hpp"
#include "base/random.hpp"
#include "internal/nbd/memory_device.hpp"
#include "internal/nbd/server.hpp"

namespace agro::nbd {

/// One direction of a connection; holds at most `capacity` bytes.
struct MemoryPipe {
  explicit MemoryPipe(std::size_t pipe_capacity) : capacity(pipe_capacity) {}
  std::string_view view() const { return std::string_view(bytes).substr(taken); }
  /// Removes the first `count` bytes.
  void drop(std::size_t count);

  std::string bytes;
  std::size_t taken = 0;  // so many bytes at the front are gone already
  std::size_t capacity;
  bool closed = false;
  Event changed;
};

/// A Stream over two pipes.
class MemoryStream final : public Stream {
 public:
  MemoryStream(std::shared_ptr<MemoryPipe> in, std::shared_ptr<MemoryPipe> out)
      : in_(std::move(in)), out_(std::move(out)) {}
  ~MemoryStream() override { close(); }
  Task<std::size_t> read_some(MutableBytes out) override;
  Task<void> write(std::vector<ConstBytes> parts) override;
  void close() override;
  std::string peer_name() const override { return "memory:test"; }
  std::size_t write_call_count() const { return write_call_count_; }

 private:
  std::shared_ptr<MemoryPipe> in_;
  std::shared_ptr<MemoryPipe> out_;
  std::size_t write_call_count_ = 0;
};

/// Time stands still but for advance().
class ManualClock final : public Clock {
 public:
  TimePoint now() const override { return now_; }
  std::int64_t unix_time_ms() const override { return 0; }
  TimerId call_at(TimePoint at, UniqueFunction callback) override {
    return timers_.add(at, std::move(callback));
  }
  void cancel(TimerId id) override { timers_.remove(id); }
  void advance(Duration duration) {
    now_ += duration;
    while (!timers_.empty() && timers_.next_at() <= now_) timers_.pop()();
  }

 private:
  TimePoint now_;
  TimerQueue timers_;
};

/// A server with its loop, clock and devices.
class ServerFixture {
 public:
  explicit ServerFixture(ServerOptions options = {});
  ~ServerFixture();
  /// Runs until nothing is ready.
  void run();
  /// Starts stop(); is_stopped() once it returned.
  void start_stop();
  bool is_stopped() const { return stopped_; }

  asio::io_context loop{1};
  ManualClock clock;
  Metrics metrics;
  MemoryProvider provider;
  std::unique_ptr<Server> server;

 private:
  bool stopped_ = false;
  bool stop_started_ = false;
};

/// One answer to a request, put together from a simple reply or chunks.
struct Answer {
  std::uint64_t cookie = 0;
  WireError error = WireError::none;
  std::string message;
  std::string data;
  std::vector<StatusDescriptor> extents;
  bool structured = false;
  std::uint64_t offset = 0;  // of the first data chunk
  std::size_t data_chunk_count = 0;
};

struct OptionAnswer {
  OptionReplyType type{};
  std::string data;
};

/// A client of the fixture's server. Every receiving call runs the loop first.
class TestClient {
 public:
  explicit TestClient(ServerFixture& fixture, std::size_t reply_capacity = 256U << 20);
  ~TestClient();

  void send(std::string_view bytes);
  /// The next `size` bytes; fewer when no more come.
  std::string receive(std::size_t size);
  /// What is there, without taking it.
  std::string_view pending();
  /// True when the server closed the connection.
  bool closed();
  void close();
  /// Ends our side only.
  void close_sending();

  /// Takes the greeting and sends `flags`.
  void greet(std::uint32_t flags = kFixedNewstyle | kNoZeroes);
  void send_option(Option option, std::string_view data = {});
  /// One reply to `option`.
  OptionAnswer receive_option_reply(Option option);
  /// Greeting and GO; structured replies and base:allocation when asked for.
  void attach(const std::string& name = "", bool structured = false);

  void send_request(const Request& request, std::string_view payload = {});
  /// The next answer. `size`: of the data of a successful read without structured replies.
  Answer receive_answer(std::size_t size = 0);
  /// Sends one request and takes its answer.
  Answer ask(const Request& request, std::string_view payload = {});

 private:
  ServerFixture& fixture_;
  std::shared_ptr<MemoryPipe> to_server_;
  std::shared_ptr<MemoryPipe> from_server_;
  bool structured_ = false;
};

/// Bytes that differ from place to place.
std::string pattern(std::size_t size, std::uint64_t seed);

}  // namespace agro::nbd

// The transmission phase of one connection: requests in, replies out, many at once.
//
// Everything that one receive brought is parsed and, where the device answers at once, served
// without a coroutine; all replies of that round leave with one send. What has to wait runs as a
// job; replies of jobs that end in the same turn of the loop leave together as well.
//
// Invariants: at most one send is under way; memory is bounded (kJobCountMax, kQueuedSizeMax):
// beyond that nothing is received; a request that failed is answered with an error, always; a FLUSH
// starts after every acknowledgment sent before it, so the device's own promise covers them.
// Threading: one loop. Format: docs/formats/nbd.md.
#pragma once

#include <memory>
#include <string>

#include "base/metrics.hpp"
#include "internal/nbd/handshake.hpp"

namespace agro::nbd {

/// What is counted, over all connections of a server.
struct ServerMetrics {
  explicit ServerMetrics(Metrics& metrics);
  Metric& connections_total;
  Metric& connections;
  Metric& protocol_errors_total;
  Metric& reads_total;
  Metric& writes_total;
  Metric& flushes_total;
  Metric& other_requests_total;
  Metric& read_bytes_total;
  Metric& written_bytes_total;
  Metric& errors_total;
};

class Transmission {
 public:
  /// Lifetime: stream, input, pools and metrics outlive run().
  Transmission(Executor executor, Stream& stream, InputBuffer& input, PayloadPools& pools,
               ServerMetrics& metrics, Session session);

  /// Serves until DISC, the end of the stream, a malformed request or begin_stop(); returns when no
  /// job is left and the stream is closed.
  /// Errors: why it ended, if not by DISC: closed, protocol_error.
  Task<void> run();

  /// New requests get ESHUTDOWN; the stream is closed when those under way have been answered.
  void begin_stop();

 private:
  Task<void> read_requests();
  Task<bool> serve_buffered();
  Task<void> receive_large_write(Request request);
  Task<void> skip_payload(std::size_t size);
  Awaitable<void> serve_in_pieces(Request request);
  Awaitable<void> wait_for_room();

  void serve(const Request& request, ConstBytes payload);
  void serve_read(const Request& request);
  /// Shape: a request that is legal.
  void start_read(const Request& request);
  /// What refuses a request before the device sees it.
  bool refuse(const Request& request);
  void serve_write(const Request& request, ConstBytes payload);

  void start_job(std::size_t size, Job job);
  Job read_job(Request request);
  Job write_job(Request request, std::shared_ptr<AlignedBuffer> owner, ConstBytes payload);
  Job control_job(Request request);
  Job block_status_job(Request request);
  Task<void> control(Request request);
  Awaitable<void> end_job(std::size_t size);

  void reply(const Request& request, const Result<void>& result);
  void reply_error(const Request& request, WireError error, std::string_view message);
  void reply_read(const Request& request, std::shared_ptr<AlignedBuffer> buffer);
  void reply_status(const Request& request, const std::vector<StatusExtent>& extents);

  /// Sends what is queued, here or in a job of its own when that may take long.
  Awaitable<void> push_replies();
  Awaitable<void> send_all();
  Job send_job() { co_await send_all(); }
  bool is_idle() const { return job_count_ == 0 && !is_sending_ && queue_.empty(); }
  bool is_full() const;
  void close_when_stopped();

  Stream& stream_;
  InputBuffer& input_;
  PayloadPools& pools_;
  ServerMetrics& metrics_;
  Session session_;
  BlockDevice& device_;

  ReplyQueue queue_;    // being filled
  ReplyQueue sending_;  // on its way
  TaskGroup jobs_;
  Event progress_;             // a job ended or a send did
  std::size_t job_count_ = 0;  // requests under way; jobs_ counts senders as well
  std::size_t job_size_ = 0;   // bytes that they hold
  std::size_t logged_error_count_ = 0;
  bool is_sending_ = false;
  bool is_send_due_ = false;  // some job will send after this turn of the loop
  bool is_broken_ = false;    // replies go nowhere any more
  bool is_stopping_ = false;
};

}  // namespace agro::nbd

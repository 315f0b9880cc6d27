#include "metadata/etcd/etcd_failure.hpp"

#include <fmt/format.h>

namespace agro::etcd {
namespace {

using Next = Failure::Next;

/// etcd's own answers, told by their text: the gRPC codes alone are too few.
struct KnownAnswer {
  std::string_view text;
  Next next;
  Errc code;
  std::string_view message;  // {0}: where, {1}: the text
};

constexpr KnownAnswer kKnownAnswers[] = {
    {"invalid auth token", Next::login, Errc::unavailable, "etcd at {0}: {1}"},
    {"revision of auth store is old", Next::login, Errc::unavailable, "etcd at {0}: {1}"},
    {"authentication is not enabled", Next::no_password, Errc::invalid_argument,
     "etcd at {0}: {1}"},
    {"authentication failed", Next::give_up, Errc::invalid_argument,
     "etcd at {0} refuses this user and password"},
    {"user name is empty", Next::give_up, Errc::invalid_argument,
     "etcd at {0} wants a user and a password: add ?user=NAME&password-file=FILE to the URI, or "
     "set AGRO_ETCD_PASSWORD"},
    {"permission denied", Next::give_up, Errc::invalid_argument,
     "etcd at {0}: this user may not do that under this prefix"},
    {"requested lease not found", Next::give_up, Errc::not_found,
     "the metadata lease has ended"},
    {"required revision has been compacted", Next::give_up, Errc::outcome_unknown,
     "etcd at {0}: {1}"},
    {"required revision is a future revision", Next::other, Errc::unavailable, "etcd at {0}: {1}"},
    {"database space exceeded", Next::give_up, Errc::out_of_space,
     "etcd at {0} is full (its quota): compact and defragment it, then 'etcdctl alarm disarm'"},
    {"request is too large", Next::give_up, Errc::too_large, "etcd at {0}: {1}"},
    {"too many operations in txn", Next::give_up, Errc::too_large, "etcd at {0}: {1}"},
    {"too many requests", Next::other, Errc::unavailable, "etcd at {0}: {1}"},
    {"etcdserver: no leader", Next::other, Errc::unavailable,
     "etcd at {0} has no leader: too few of its members run or reach each other"},
};

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// The connection was never made, so the request never left.
Failure not_connected(const std::string& text, const std::string& where) {
  Failure failure{.next = Next::other, .maybe_done = false, .error = {}};
  if (has(text, "Ssl handshake failed") || has(text, "SSL_ERROR") ||
      has(text, "Peer name") || has(text, "certificate")) {
    failure.error = {Errc::unavailable,
                     fmt::format("etcd at {}: TLS failed (is its certificate signed by our CA and "
                                 "for this name, and ours by its CA?): {}",
                                 where, text)};
  } else if (has(text, "Failed to connect to remote host") || has(text, "Timeout") ||
             has(text, "timed out")) {
    failure.error = {Errc::unavailable, fmt::format("no etcd answers at {}", where)};
  } else {
    failure.error = {Errc::unavailable,
                     fmt::format("etcd at {} ends the connection at once: does it want TLS "
                                 "(etcds://), or a client certificate that it knows? ({})",
                                 where, text)};
  }
  return failure;
}

}  // namespace

Failure judge(const grpc::Status& status, const std::string& where) {
  const std::string& text = status.error_message();
  for (const KnownAnswer& known : kKnownAnswers) {
    if (!has(text, known.text)) continue;
    return {.next = known.next,
            .maybe_done = false,
            .error = {known.code, fmt::format(fmt::runtime(known.message), where, text)}};
  }
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      if (has(text, "failed to connect")) return not_connected(text, where);
      return {.next = Next::other,
              .maybe_done = true,
              .error = {Errc::unavailable, fmt::format("etcd at {}: {}", where, text)}};
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return {.next = Next::other,
              .maybe_done = true,
              .error = {Errc::timed_out, fmt::format("etcd at {} does not answer", where)}};
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::ABORTED:
      return {.next = Next::other,
              .maybe_done = true,
              .error = {Errc::unavailable, fmt::format("etcd at {}: {}", where, text)}};
    case grpc::StatusCode::UNIMPLEMENTED:
      return {.next = Next::give_up,
              .maybe_done = false,
              .error = {Errc::not_supported,
                        fmt::format("{} does not speak the etcd v3 API", where)}};
    case grpc::StatusCode::DATA_LOSS:
      return {.next = Next::give_up,
              .maybe_done = true,
              .error = {Errc::corrupt, fmt::format("etcd at {}: {}", where, text)}};
    default:
      return {.next = Next::give_up,
              .maybe_done = false,
              .error = {Errc::io_error, fmt::format("etcd at {}: {}", where, text)}};
  }
}

}  // namespace agro::etcd

#include "internal/nbd/tls.hpp"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace agro::nbd {
namespace {

constexpr std::size_t kInputSize = 64U << 10;
/// Four records of 16 KiB and their frames; more is written in pieces.
constexpr std::size_t kOutputSize = 72U << 10;
constexpr std::size_t kPlainAtOnce = 64U << 10;

/// What OpenSSL says was wrong first; empties its queue.
std::string openssl_problem() {
  const unsigned long code = ERR_get_error();  // NOLINT(google-runtime-int): OpenSSL's type
  ERR_clear_error();
  if (code == 0) return "the connection ended";
  const char* reason = ERR_reason_error_string(code);
  return reason != nullptr ? reason : fmt::format("OpenSSL error {:#x}", code);
}

Result<void> check_file(const std::string& path) {
  if (access(path.c_str(), R_OK) == 0) return {};
  return fail(Errc::invalid_argument, fmt::format("--tls-certificates: cannot read {}: {}", path, std::strerror(errno)));
}

Result<void> use_certificate(SSL_CTX* context, const std::string& certificate, const std::string& key) {
  AGRO_TRY_OK(check_file(certificate));
  AGRO_TRY_OK(check_file(key));
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1) {
    return fail(Errc::invalid_argument, fmt::format("{} is no certificate in PEM: {}", certificate, openssl_problem()));
  }
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1) {
    return fail(Errc::invalid_argument, fmt::format("{} is not the key of {}: {}", key, certificate, openssl_problem()));
  }
  return {};
}

Result<void> use_authority(SSL_CTX* context, const std::string& authority) {
  AGRO_TRY_OK(check_file(authority));
  ERR_clear_error();
  if (SSL_CTX_load_verify_locations(context, authority.c_str(), nullptr) != 1) {
    return fail(Errc::invalid_argument, fmt::format("{} has no certificates in PEM: {}", authority, openssl_problem()));
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return {};
}

}  // namespace

TlsContext::TlsContext(bool is_server)
    : context_(SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method())), is_server_(is_server) {
  AGRO_ASSERT(context_ != nullptr);
  SSL_CTX_set_min_proto_version(context_, TLS1_2_VERSION);
  SSL_CTX_set_options(context_, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context_, 0);
  SSL_CTX_set_mode(context_, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS);
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

Result<std::shared_ptr<const TlsContext>> TlsContext::for_server(const std::string& folder, bool verify_clients) {
  const std::shared_ptr<TlsContext> made(new TlsContext(true));
  AGRO_TRY_OK(use_certificate(made->context_, folder + "/server-cert.pem", folder + "/server-key.pem"));
  if (verify_clients) AGRO_TRY_OK(use_authority(made->context_, folder + "/ca-cert.pem"));
  return made;
}

Result<std::shared_ptr<const TlsContext>> TlsContext::for_client(const std::string& folder) {
  const std::shared_ptr<TlsContext> made(new TlsContext(false));
  AGRO_TRY_OK(use_authority(made->context_, folder + "/ca-cert.pem"));
  if (access((folder + "/client-cert.pem").c_str(), F_OK) == 0) {
    AGRO_TRY_OK(use_certificate(made->context_, folder + "/client-cert.pem", folder + "/client-key.pem"));
  }
  return made;
}

namespace {

SSL* new_connection(const TlsContext& context) {
  SSL* const ssl = SSL_new(context.get());
  BIO* const received = BIO_new(BIO_s_mem());
  BIO* const made = BIO_new(BIO_s_mem());
  AGRO_ASSERT(ssl != nullptr && received != nullptr && made != nullptr);
  BIO_set_mem_eof_return(received, -1);  // empty: more will come
  SSL_set_bio(ssl, received, made);
  if (context.is_server()) {
    SSL_set_accept_state(ssl);
  } else {
    SSL_set_connect_state(ssl);
  }
  return ssl;
}

}  // namespace

/// OpenSSL's state of a connection, with what it received and nobody read yet.
class TlsStream::Detached final : public DetachedLayer {
 public:
  Detached(std::shared_ptr<const TlsContext> context, ssl_st* ssl) : context_(std::move(context)), ssl_(ssl) {}
  Detached(const Detached&) = delete;
  Detached& operator=(const Detached&) = delete;
  ~Detached() override { SSL_free(ssl_); }

  std::unique_ptr<Stream> over(std::unique_ptr<Stream> below) override {
    return std::unique_ptr<Stream>(new TlsStream(std::move(below), context_, std::exchange(ssl_, nullptr)));
  }

 private:
  std::shared_ptr<const TlsContext> context_;
  ssl_st* ssl_;
};

TlsStream::TlsStream(std::unique_ptr<Stream> below, std::shared_ptr<const TlsContext> context)
    : TlsStream(std::move(below), context, new_connection(*context)) {}

TlsStream::TlsStream(std::unique_ptr<Stream> below, std::shared_ptr<const TlsContext> context, ssl_st* ssl)
    : below_(std::move(below)),
      context_(std::move(context)),
      ssl_(ssl),
      received_(SSL_get_rbio(ssl)),
      made_(SSL_get_wbio(ssl)),
      input_(kInputSize),
      output_(kOutputSize) {}

Result<DetachedStream> TlsStream::detach() {
  AGRO_TRY(DetachedStream detached, below_->detach());
  detached.layer = std::make_unique<Detached>(context_, std::exchange(ssl_, nullptr));
  return detached;
}

TlsStream::~TlsStream() { SSL_free(ssl_); }

Task<void> TlsStream::receive() {
  AGRO_CO_TRY(const std::size_t size, co_await below_->read_some(input_.bytes()));
  const int taken = BIO_write(received_, input_.data(), static_cast<int>(size));
  AGRO_ASSERT(taken == static_cast<int>(size));  // memory takes all
  co_return Result<void>();
}

Task<void> TlsStream::flush() {
  const AsyncMutex::Guard guard = co_await writing_.lock();
  while (BIO_ctrl_pending(made_) > 0) {
    const int size = BIO_read(made_, output_.data(), static_cast<int>(output_.size()));
    AGRO_ASSERT(size > 0);
    std::vector<ConstBytes> parts;
    parts.push_back(ConstBytes(output_.bytes()).first(static_cast<std::size_t>(size)));
    AGRO_CO_TRY_OK(co_await below_->write(std::move(parts)));
  }
  co_return Result<void>();
}

Task<void> TlsStream::start() {
  for (;;) {
    ERR_clear_error();
    const int outcome = SSL_do_handshake(ssl_);
    const int problem = SSL_get_error(ssl_, outcome);
    const std::string text = outcome == 1 || problem == SSL_ERROR_WANT_READ ? "" : openssl_problem();
    const Result<void> sent = co_await flush();  // an alert, too
    if (!text.empty()) co_return fail(Errc::protocol_error, "TLS: " + text);
    AGRO_CO_TRY_OK(sent);
    if (outcome == 1) co_return Result<void>();
    AGRO_CO_TRY_OK(co_await receive());
  }
}

Task<std::size_t> TlsStream::read_some(MutableBytes out) {
  for (;;) {
    ERR_clear_error();
    const int wanted = static_cast<int>(std::min<std::size_t>(out.size(), 1U << 30));
    const int count = SSL_read(ssl_, out.data(), wanted);
    const int problem = SSL_get_error(ssl_, count);
    const bool done = problem == SSL_ERROR_ZERO_RETURN;
    const std::string text = count > 0 || done || problem == SSL_ERROR_WANT_READ ? "" : openssl_problem();
    if (BIO_ctrl_pending(made_) > 0) AGRO_CO_TRY_OK(co_await flush());  // an answer of TLS itself, or its last word
    if (count > 0) co_return static_cast<std::size_t>(count);
    if (done) co_return fail(Errc::closed, "the other side ended TLS");
    if (!text.empty()) co_return fail(Errc::protocol_error, "TLS: " + text);
    AGRO_CO_TRY_OK(co_await receive());
  }
}

Task<void> TlsStream::write(std::vector<ConstBytes> parts) {
  for (ConstBytes part : parts) {
    while (!part.empty()) {
      ERR_clear_error();
      const int count = SSL_write(ssl_, part.data(), static_cast<int>(std::min(part.size(), kPlainAtOnce)));
      if (count <= 0) co_return fail(Errc::protocol_error, "TLS: " + openssl_problem());
      part = part.subspan(static_cast<std::size_t>(count));
      if (BIO_ctrl_pending(made_) >= kPlainAtOnce) AGRO_CO_TRY_OK(co_await flush());
    }
  }
  co_return co_await flush();
}

}  // namespace agro::nbd

// TLS on an NBD connection, by OpenSSL, over any stream.
//
// Invariants: TLS 1.2 or later, no renegotiation, no resumption; not a byte goes to the peer but through TLS once start() began.
// OpenSSL sees memory only (two BIOs); what it made is written to the stream below in the order in which it was made.
// Threading: one loop. Source: RFC 8446, doc/proto.md of NetworkBlockDevice/nbd, "TLS support".
#pragma once

#include <memory>
#include <string>

#include "base/network.hpp"

struct ssl_ctx_st;
struct ssl_st;
struct bio_st;

namespace agro::nbd {

/// Certificates and what is asked of the other side; read once, shared by all connections.
class TlsContext {
 public:
  /// Reads `folder`/server-cert.pem and server-key.pem; with `verify_clients` ca-cert.pem, too: who shows no certificate that it
  /// signed is refused. Errors: invalid_argument, naming the file and what is wrong with it.
  static Result<std::shared_ptr<const TlsContext>> for_server(const std::string& folder, bool verify_clients);
  /// Reads `folder`/ca-cert.pem, which the server's certificate must be signed by, and client-cert.pem and client-key.pem if
  /// they are there. Used by tests. Errors: as above.
  static Result<std::shared_ptr<const TlsContext>> for_client(const std::string& folder);

  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();

  ssl_ctx_st* get() const { return context_; }
  bool is_server() const { return is_server_; }

 private:
  explicit TlsContext(bool is_server);
  ssl_ctx_st* context_;
  bool is_server_;
};

/// A stream through TLS. Errors: those of the stream below; protocol_error for what is not TLS, or a certificate that is refused; closed
/// also when the other side said that it is done.
class TlsStream final : public Stream {
 public:
  TlsStream(std::unique_ptr<Stream> below, std::shared_ptr<const TlsContext> context);
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;
  ~TlsStream() override;

  /// The TLS handshake; before any read or write.
  Task<void> start();

  Task<std::size_t> read_some(MutableBytes out) override;
  Task<void> write(std::vector<ConstBytes> parts) override;
  void close() override { below_->close(); }
  std::string peer_name() const override { return below_->peer_name(); }
  Result<DetachedStream> detach() override;

 private:
  class Detached;
  TlsStream(std::unique_ptr<Stream> below, std::shared_ptr<const TlsContext> context, ssl_st* ssl);

  /// Receives what is there and hands it to TLS.
  Task<void> receive();
  /// Writes what TLS made.
  Task<void> flush();

  std::unique_ptr<Stream> below_;
  std::shared_ptr<const TlsContext> context_;
  ssl_st* ssl_;  // none once detached
  bio_st* received_;  // owned by ssl_, as is the next
  bio_st* made_;
  AsyncMutex writing_;
  AlignedBuffer input_;
  AlignedBuffer output_;
};

}  // namespace agro::nbd

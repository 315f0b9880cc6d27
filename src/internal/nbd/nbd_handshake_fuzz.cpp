// Fuzzes the handshake: the input is what a client sends right after it has connected. One byte of
// it says how the bytes are cut up, and whether the server wants TLS.
#include <algorithm>

#include "base/log.hpp"
#include "internal/nbd/test_certificates.hpp"
#include "internal/nbd/test_client.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;
  using namespace agro::nbd;
  set_log_sink([](LogLevel, std::string_view) {});
  static const TestCertificates certificates;
  static const std::shared_ptr<const TlsContext> tls = *TlsContext::for_server(certificates.folder(), true);
  ServerOptions options;
  if (size > 0 && data[size - 1] % 2 == 1) options.tls = tls;
  ServerFixture fixture(options);
  fixture.provider.add("volume", 1U << 20, false, "a description");
  fixture.provider.add("snapshot", 1U << 20, true);
  fixture.provider.fail_opening("locked", {Errc::locked, "open elsewhere"});
  TestClient client(fixture);
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t step = size == 0 ? 1 : std::max<std::size_t>(1, data[size - 1]);
  for (std::size_t at = 0; at < size; at += step) {
    client.send(bytes.substr(at, step));
    fixture.run();
  }
  // Whatever came, the server still greets the next one.
  TestClient next(fixture);
  AGRO_ASSERT(next.receive(kGreetingSize).size() == kGreetingSize);
  return 0;
}

// Fuzzes the transmission phase. The first byte chooses simple or structured replies, what the
// device holds back or fails, and how the bytes are cut up; the rest is what the client sends.
#include "base/log.hpp"
#include "internal/nbd/test_client.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace agro;
  using namespace agro::nbd;
  if (size == 0) return 0;
  set_log_sink([](LogLevel, std::string_view) {});
  constexpr std::uint64_t kDeviceSize = 1U << 20;
  const unsigned choice = data[0];
  ServerFixture fixture;
  const auto device = fixture.provider.add("volume", kDeviceSize, (choice & 2) != 0);
  TestClient client(fixture);
  client.attach("volume", (choice & 1) != 0);
  if ((choice & 4) != 0) device->hold(0, kDeviceSize / 2);
  if ((choice & 8) != 0) device->fail_range(65536, 65536, {Errc::io_error, "bad block"});
  if ((choice & 16) != 0) device->hold_flushes();
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  const std::size_t step = (choice & 32) != 0 ? 1 + choice : 1U << 20;
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    client.send(bytes.substr(at, step));
    fixture.run();
  }
  if ((choice & 64) != 0) client.close();
  fixture.run();
  device->release();
  fixture.run();
  // Whatever came, the next client is served.
  TestClient next(fixture);
  next.attach("volume");
  AGRO_ASSERT(next.ask({.command = Command::cache, .cookie = 1, .offset = 0, .size = 1}).cookie ==
              1);
  return 0;
}

// Serves a MemoryDevice on real sockets, so that clients which we did not write can test our NBD.
// For tests and measurements only.
//
// nbd_memory_server ADDRESS [SIZE [NAME]]
//   ADDRESS  unix:PATH or tcp:HOST:PORT; prints "listening on ADDRESS" when it is ready
//   SIZE     of the export NAME ("memory"), 1 GiB; there is a read-only export "fixed" as well when
//            NAME is given
#include <fmt/format.h>

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>

#include "base/system_network.hpp"
#include "base/units.hpp"
#include "internal/nbd/memory_device.hpp"
#include "internal/nbd/server.hpp"

namespace {

using namespace agro;

Job start(nbd::Server& server, Network& network, Address address, int& exit_status,
          asio::io_context& loop) {
  const Result<Address> bound = co_await server.listen(network, address);
  if (!bound.has_value()) {
    fmt::print(stderr, "nbd_memory_server: {}\n", bound.error().to_string());
    exit_status = 1;
    loop.stop();
    co_return;
  }
  fmt::print("listening on {}\n", bound->to_string());
  std::fflush(stdout);
}

Job stop(nbd::Server& server, asio::io_context& loop) {
  co_await server.stop();
  loop.stop();
}

}  // namespace

int main(int argc, char** argv) {
  const Result<Address> address = parse_address(argc > 1 ? argv[1] : "");
  const Result<std::uint64_t> size = parse_size(argc > 2 ? argv[2] : "1GiB");
  if (!address.has_value() || !size.has_value()) {
    fmt::print(stderr, "usage: nbd_memory_server unix:PATH|tcp:HOST:PORT [SIZE [NAME]]\n");
    return 1;
  }
  asio::io_context loop(1);
  SystemClock clock(loop);
  SystemNetwork network(loop, clock);
  Metrics metrics;
  nbd::MemoryProvider provider;
  provider.add(argc > 3 ? argv[3] : "memory", *size, false, "memory that forgets");
  if (argc > 3) provider.add("fixed", *size, true);
  nbd::Server server(loop.get_executor(), clock, metrics, provider);
  int exit_status = 0;
  spawn(loop.get_executor(), start(server, network, *address, exit_status, loop));
  asio::signal_set signals(loop, SIGINT, SIGTERM);
  signals.async_wait([&](const boost::system::error_code&, int) {
    spawn(loop.get_executor(), stop(server, loop));
  });
  loop.run();
  return exit_status;
}

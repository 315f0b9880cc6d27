#include "agroctl/attached.hpp"

namespace agro {

Task<void> detach(Attached& attached) {
  // The handle is kept meanwhile, so that the manager detaches now and says how it went.
  const Result<void> stopped = co_await attached.manager->stop();
  attached.device.reset();
  co_await attached.client->stop();
  co_return stopped;
}

Task<std::unique_ptr<Attached>> attach(Session& session, std::string volume) {
  auto attached = std::make_unique<Attached>();
  AGRO_CO_TRY(attached->client, co_await ClusterClient::start(session.env, session.kv));
  VolumeManagerOptions options;
  options.holder = holder_name("agroctl");
  options.lock_patience = std::chrono::seconds(1);
  options.stop_patience = Duration::zero();
  attached->manager = std::make_unique<VolumeManager>(session.env, session.kv, *attached->client,
                                                      std::move(options));
  Result<std::shared_ptr<BlockDevice>> device = co_await attached->manager->open(volume);
  if (!device.has_value()) {
    const Result<void> released = co_await detach(*attached);
    Error error = std::move(device).error();
    if (!released.has_value()) error.message += "; then: " + released.error().message;
    co_return fail(std::move(error));
  }
  attached->device = std::move(*device);
  // From here on things can go wrong that are no error yet: peers that go, writes that wait.
  if (!session.verbose) log_to_standard_error("agroctl", false);
  co_return std::move(attached);
}

}  // namespace agro

#include "node/snapshot_request.hpp"

namespace agro {
namespace {

constexpr Duration kAskAgain = std::chrono::milliseconds(5);

}  // namespace

Task<SnapshotRecord> await_snapshot(Clock& clock, Metadata& metadata, AskedSnapshot asked, std::function<bool()> stopping,
                                    Duration limit) {
  const TimePoint deadline = clock.now() + limit;
  while (true) {
    AGRO_CO_TRY(const std::optional<SnapshotRecord> made,
                co_await metadata.poll_snapshot(asked.volume, asked.name, asked.token));
    if (made.has_value()) co_return *made;
    if (clock.now() >= deadline || stopping()) break;
    co_await sleep_for(clock, kAskAgain);
  }
  AGRO_CO_TRY_OK(co_await metadata.withdraw_snapshot(asked.volume, asked.name, asked.token));
  const Result<std::optional<SnapshotRecord>> late =
      co_await metadata.poll_snapshot(asked.volume, asked.name, asked.token);
  if (late.has_value() && late->has_value()) co_return **late;
  co_return fail(
      Errc::timed_out,
      "whoever has the volume open does not answer; is it suspended? See 'agroctl status'");
}

}  // namespace agro

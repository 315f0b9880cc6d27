// How long a lookup takes: it is on the way of every block.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/assert.hpp"
#include "models/codec.hpp"
#include "ring/balance.hpp"
#include "ring/placement.hpp"

namespace agro {
namespace {

RingSpec spec_of(RingKind kind, std::size_t member_count) {
  RingSpec spec{.kind = kind, .version = 1, .replication = 3, .members = {}, .parts = {}};
  Random random(1);
  for (std::size_t index = 0; index < member_count; ++index) {
    spec.members.push_back({.id = make_uuid(random), .weight = 1});
  }
  return spec;
}

void look_up(benchmark::State& state, RingSpec spec) {
  const auto ring = make_ring(std::move(spec));
  AGRO_ASSERT(ring.has_value());
  std::vector<std::uint32_t> order;
  BlockRef ref{.volume = {1}, .epoch = {1}};
  for (auto step : state) {
    ++ref.index;
    (*ring)->permutation(ref, order);
    benchmark::DoNotOptimize(order.data());
  }
}

void bm_mod(benchmark::State& state) {
  look_up(state, spec_of(RingKind::mod, static_cast<std::size_t>(state.range(0))));
}
void bm_ketama(benchmark::State& state) {
  look_up(state, spec_of(RingKind::ketama, static_cast<std::size_t>(state.range(0))));
}
void bm_placement(benchmark::State& state) {
  RingSpec spec = spec_of(RingKind::placement, static_cast<std::size_t>(state.range(0)));
  spec.group_count = kGroupCountDefault;
  look_up(state, balance(std::move(spec)));
}
void bm_placement_owners(benchmark::State& state) {
  RingSpec spec = spec_of(RingKind::placement, static_cast<std::size_t>(state.range(0)));
  spec.group_count = kGroupCountDefault;
  const auto ring = make_ring(balance(std::move(spec)));
  AGRO_ASSERT(ring.has_value());
  std::vector<std::uint32_t> owners;
  BlockRef ref{.volume = {1}, .epoch = {1}};
  for (auto step : state) {
    ++ref.index;
    (*ring)->owners(ref, owners);
    benchmark::DoNotOptimize(owners.data());
  }
}
void bm_balance(benchmark::State& state) {
  RingSpec spec = spec_of(RingKind::placement, static_cast<std::size_t>(state.range(0)));
  spec.group_count = kGroupCountDefault;
  spec.replication = 3;
  for (auto step : state) benchmark::DoNotOptimize(balance(spec));
}
void bm_union(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  RingSpec newer = spec_of(RingKind::ketama, count);
  RingSpec older = newer;
  older.members.pop_back();
  look_up(state, {.kind = RingKind::union_,
                  .version = 2,
                  .replication = 3,
                  .members = {},
                  .parts = {older, newer}});
}
/// Peers, groups: what docs/scale.md says of large clusters. Time: a change, one peer of them leaving, balanced
/// anew. Counters: bytes of the ring's record, of the union while the change is under way, and how far the
/// fullest peer is above its share, in percent.
void bm_large_cluster(benchmark::State& state) {
  RingSpec spec = spec_of(RingKind::placement, static_cast<std::size_t>(state.range(0)));
  spec.group_count = static_cast<std::uint32_t>(state.range(1));
  for (std::size_t index = 0; index < spec.members.size(); ++index) {
    spec.members[index].weight = 4000;
    spec.members[index].labels = {.zone = fmt::format("zone-{}", index % 5),
                                  .rack = fmt::format("rack-{}", index % 20),
                                  .host = fmt::format("host-{}", index)};
  }
  std::sort(spec.members.begin(), spec.members.end());
  const RingSpec before = balance(spec);
  RingSpec target = before;
  target.members.erase(target.members.begin() + 1);
  RingSpec after;
  for (auto step : state) after = balance(target, &before);
  const std::vector<std::uint64_t> counts = replica_counts(after);
  const double share = fair_replica_counts(after)[0];
  state.counters["record"] = static_cast<double>(encode(after).size());
  state.counters["union"] = static_cast<double>(encode(RingSpec{.kind = RingKind::union_,
                                                                .version = 2,
                                                                .replication = 3,
                                                                .members = {},
                                                                .parts = {before, after}}).size());
  const auto most = static_cast<double>(*std::max_element(counts.begin(), counts.end()));
  state.counters["excess_%"] = 100 * (most / share - 1);
  state.counters["moved_share"] = static_cast<double>(moved_replica_count(before, after)) / share;
}
BENCHMARK(bm_large_cluster)
    ->ArgsProduct({{3, 30, 100, 300, 1000}, {4096, 16384, 65536}})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(bm_mod)->Arg(3)->Arg(30);
BENCHMARK(bm_ketama)->Arg(3)->Arg(30)->Arg(64)->Arg(300);
BENCHMARK(bm_placement)->Arg(3)->Arg(30)->Arg(100)->Arg(300)->Arg(1000);
BENCHMARK(bm_placement_owners)->Arg(3)->Arg(30)->Arg(100);
BENCHMARK(bm_balance)->Arg(30)->Arg(100)->Unit(benchmark::kMillisecond);
BENCHMARK(bm_union)->Arg(4)->Arg(30);

}  // namespace
}  // namespace agro

#include "distributor/peer_service.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/parallel.hpp"
#include "blockset/crc.hpp"

namespace agro {
namespace {

/// Where the checksums of the pages that [offset, offset + size) lies in are.
struct CrcRange {
  std::uint32_t position = 0;
  std::uint32_t count = 0;
};

Result<CrcRange> crc_range(std::uint32_t block_size, std::uint32_t offset, std::size_t size) {
  const std::uint32_t first_page = offset / kPageSize;
  const std::uint64_t end = round_up(std::uint64_t{offset} + size, kPageSize);
  const auto count = static_cast<std::uint32_t>(end / kPageSize) - first_page;
  AGRO_TRY(const std::uint32_t position, crc_table_position(block_size, first_page, count));
  return CrcRange{position, count};
}

MutableBytes bytes_of(std::vector<std::uint32_t>& crcs) {
  return std::as_writable_bytes(std::span(crcs));
}

}  // namespace

StoreCounters::StoreCounters(Metrics& metrics)
    : written(metrics.counter("agro_storage_written_blocks",
                              "Number of blocks written to local block storage")),
      failed_written(metrics.counter("agro_storage_failed_written_blocks",
                                     "Number of blocks failed to be written to it")),
      read(metrics.counter("agro_storage_read_blocks",
                           "Number of blocks returned from local block storage")),
      failed_read(metrics.counter("agro_storage_failed_blocks",
                                  "Number of blocks failed to be returned from it")),
      deleted(metrics.counter("agro_storage_deleted_blocks",
                              "Number of blocks deleted from local block storage")),
      failed_deleted(metrics.counter("agro_storage_failed_deleted_blocks",
                                     "Number of blocks failed to be deleted from it")),
      put_rpcs(metrics.counter("agro_distributor_put_block_rpcs_total",
                               "Number of writes that this node was asked for")),
      put_rpc_failures(metrics.counter("agro_distributor_put_block_rpc_failures",
                                       "Number of those that failed")),
      get_rpcs(metrics.counter("agro_distributor_block_rpcs_total",
                               "Number of reads that this node was asked for")),
      get_rpc_failures(metrics.counter("agro_distributor_block_rpc_failures",
                                       "Number of those that failed")) {}

void StoreCounters::count_write(bool stored) {
  put_rpcs.add();
  (stored ? written : failed_written).add();
  if (!stored) put_rpc_failures.add();
}

void StoreCounters::count_read(bool found) {
  get_rpcs.add();
  (found ? read : failed_read).add();
  if (!found) get_rpc_failures.add();
}

void StoreCounters::count_removal(std::size_t block_count, bool removed) {
  (removed ? deleted : failed_deleted).add(block_count);
}

PeerService::PeerService(PeerId id, BlockStore& store, Metrics& metrics)
    : id_(id),
      store_(store),
      corrupt_writes_(metrics.get("agro_peer_corrupt_writes_total",
                                  "Blocks refused because they did not verify on arrival")),
      counters_(metrics) {}

Task<void> PeerService::write(PeerWrite request) {
  Result<void> stored = co_await put(std::move(request));
  counters_.count_write(stored.has_value());
  co_return stored;
}

Task<void> PeerService::put(PeerWrite request) {
  if (request.block.size() == 0) co_return fail(Errc::invalid_argument, "an empty block");
  if (request.checksummed) {
    const Result<std::uint32_t> verified = crc_verify_block(request.ref, request.block.bytes);
    if (!verified.has_value()) {
      corrupt_writes_.add();
      co_return fail(with_context(verified.error(), "damaged on the way"));
    }
  }
  const PutOptions options{.reserve = request.reserve, .keep = request.keep};
  if (request.repair) {
    co_return co_await store_.repair(request.ref, std::move(request.block), options);
  }
  // A block placed by an older ring may be where nobody will look for it.
  const std::uint64_t version = request.ring_version;
  if (version < required_ring_) {
    co_return fail(Errc::stale_ring, fmt::format("placed by ring {}, the cluster is at ring {}",
                                                 version, required_ring_));
  }
  ++writes_by_ring_[version];
  ++activity_;
  const Result<void> stored = co_await store_.put(request.ref, std::move(request.block), options);
  if (--writes_by_ring_[version] == 0) writes_by_ring_.erase(version);
  writes_done_.notify_all();
  if (stored.has_value() && background_ != nullptr) background_->stored(request.ref);
  co_return stored;
}

Awaitable<void> PeerService::require_ring(std::uint64_t version) {
  required_ring_ = std::max(required_ring_, version);
  while (!writes_by_ring_.empty() && writes_by_ring_.begin()->first < version) {
    co_await writes_done_.wait();
  }
}

Result<std::vector<std::uint32_t>> PeerService::has(const std::vector<BlockRef>& refs,
                                                    std::uint64_t ring_version) const {
  if (ring_version > required_ring_) {
    return fail(Errc::unavailable, fmt::format("peer {} knows ring {}, not {} yet", id_.to_string(),
                                               required_ring_, ring_version));
  }
  std::vector<std::uint32_t> sizes;
  sizes.reserve(refs.size());
  for (const BlockRef& ref : refs) {
    sizes.push_back(giving_up_.contains(ref) ? 0 : store_.find(ref).value_or(0));
  }
  return sizes;
}

Task<void> PeerService::give_up(std::vector<BlockRef> refs, std::uint64_t ring_version) {
  if (ring_version != required_ring_) co_return Result<void>();
  giving_up_.insert(refs.begin(), refs.end());
  const Result<std::size_t> removed = co_await store_.remove(refs);
  for (const BlockRef& ref : refs) giving_up_.erase(ref);
  if (!removed.has_value()) co_return fail(removed.error());
  co_return Result<void>();
}

PeerReport PeerService::report() const {
  PeerReport report;
  if (background_ != nullptr) report = background_->report();
  report.id = id_;
  report.ring_version = required_ring_;
  return report;
}

Result<void> PeerService::start(WorkKind kind) {
  if (background_ == nullptr) {
    return fail(Errc::not_supported, fmt::format("peer {} does no background work", id_.to_string()));
  }
  return background_->start(kind);
}

Task<void> PeerService::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                             std::vector<std::uint32_t>* page_crcs) {
  ++activity_;
  Result<void> read = co_await read_stored(ref, offset, out, page_crcs);
  counters_.count_read(read.has_value());
  co_return read;
}

std::optional<Result<void>> PeerService::try_read(const BlockRef& ref, std::uint32_t offset,
                                                  MutableBytes out,
                                                  std::vector<std::uint32_t>* page_crcs) {
  ++activity_;
  std::optional<Result<void>> read = try_read_stored(ref, offset, out, page_crcs);
  if (read.has_value()) counters_.count_read(read->has_value());
  return read;
}

Task<void> PeerService::read_stored(BlockRef ref, std::uint32_t offset, MutableBytes out,
                                    std::vector<std::uint32_t>* page_crcs) {
  if (page_crcs != nullptr) {
    const std::optional<std::uint32_t> size = store_.find(ref);
    if (!size.has_value()) co_return fail(Errc::not_found, ref.to_string() + ": not here");
    AGRO_CO_TRY(const CrcRange range, crc_range(*size, offset, out.size()));
    page_crcs->resize(range.count);
    const MutableBytes crcs = bytes_of(*page_crcs);
    const std::optional<Result<void>> at_once = store_.try_read(ref, range.position, crcs);
    if (!at_once.has_value()) {
      // Both may take the disk a while, and they lie apart.
      co_return co_await for_each_parallel(2, 2, [&](std::size_t index) {
        return index == 0 ? store_.read(ref, range.position, crcs) : store_.read(ref, offset, out);
      });
    }
    AGRO_CO_TRY_OK(*at_once);
  }
  co_return co_await store_.read(ref, offset, out);
}

std::optional<Result<void>> PeerService::try_read_stored(const BlockRef& ref, std::uint32_t offset,
                                                         MutableBytes out,
                                                         std::vector<std::uint32_t>* page_crcs) {
  if (page_crcs != nullptr) {
    const std::optional<std::uint32_t> size = store_.find(ref);
    if (!size.has_value()) return fail(Errc::not_found, ref.to_string() + ": not here");
    const Result<CrcRange> range = crc_range(*size, offset, out.size());
    if (!range.has_value()) return fail(range.error());
    page_crcs->resize(range->count);
    std::optional<Result<void>> crcs_read =
        store_.try_read(ref, range->position, bytes_of(*page_crcs));
    if (!crcs_read.has_value() || !crcs_read->has_value()) return crcs_read;
  }
  return store_.try_read(ref, offset, out);
}

Task<void> PeerService::remove(std::vector<BlockRef> refs) {
  const std::size_t asked_count = refs.size();
  const Result<std::size_t> removed = co_await store_.remove(std::move(refs));
  counters_.count_removal(removed.value_or(asked_count), removed.has_value());
  if (!removed.has_value()) co_return fail(removed.error());
  co_return Result<void>();
}

Task<void> PeerService::fence(VolumeId volume, Epoch epoch) {
  const Epoch present = store_.fence_of(volume);
  if (present > epoch) {
    co_return fail(Errc::fenced, fmt::format("volume {}: epoch {} is fenced off by epoch {}",
                                             volume.value, epoch.value, present.value));
  }
  co_return co_await store_.fence(volume, epoch);
}

Result<void> LocalPeer::check_open() const {
  if (closed_) return fail(Errc::unavailable, "peer " + id().to_string() + " is closed");
  return {};
}

Task<void> LocalPeer::write(PeerWrite request, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  const std::shared_ptr<PeerService> service = service_;
  if (request.verified) request.checksummed = false;
  co_return co_await service->write(std::move(request));
}

Task<void> LocalPeer::read(BlockRef ref, std::uint32_t offset, MutableBytes out,
                           std::vector<std::uint32_t>* page_crcs, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  const std::shared_ptr<PeerService> service = service_;
  co_return co_await service->read(ref, offset, out, page_crcs);
}

std::optional<Result<void>> LocalPeer::try_read(const BlockRef& ref, std::uint32_t offset,
                                                MutableBytes out,
                                                std::vector<std::uint32_t>* page_crcs) {
  if (closed_) return std::nullopt;
  return service_->try_read(ref, offset, out, page_crcs);
}

Task<std::vector<std::uint32_t>> LocalPeer::has(std::vector<BlockRef> refs,
                                                std::uint64_t ring_version, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  co_return service_->has(refs, ring_version);
}

Task<PeerReport> LocalPeer::report(TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  co_return service_->report();
}

Task<void> LocalPeer::start(WorkKind kind, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  co_return service_->start(kind);
}

Task<std::vector<BlockInfo>> LocalPeer::list(BlockFilter filter, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  co_return service_->list(filter);
}

Task<void> LocalPeer::remove(std::vector<BlockRef> refs, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  const std::shared_ptr<PeerService> service = service_;
  co_return co_await service->remove(std::move(refs));
}

Task<void> LocalPeer::fence(VolumeId volume, Epoch epoch, TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  const std::shared_ptr<PeerService> service = service_;
  co_return co_await service->fence(volume, epoch);
}

Task<PeerStat> LocalPeer::stat(TimePoint) {
  AGRO_CO_TRY_OK(check_open());
  co_return service_->stat();
}

}  // namespace agro

#include "common/original_series.hpp"

#include <array>
#include <string>

namespace agro {
namespace {

using Sample = MetricsSnapshot::Sample;

/// A series that is another one, label for label.
struct Alias {
  const char* name;
  const char* help;
  MetricKind kind;
  const char* source;
};

constexpr std::array kAliases = {
    Alias{"agro_blockset_crc_failed_blocks", "Number of blocks that failed due to CRC mismatch",
          MetricKind::counter, "agro_corrupt_replicas_total"},
    Alias{"agro_server_file_syncs", "Number of times a volume has been flushed on this server",
          MetricKind::counter, "agro_volume_flushes_total"},
    Alias{"agro_server_file_written_bytes", "Number of bytes written to volumes on this server",
          MetricKind::counter, "agro_volume_written_bytes_total"},
    Alias{"agro_server_open_files", "Number of volumes open on this server", MetricKind::gauge,
          "agro_volumes_attached"},
    Alias{"agro_server_open_inodes", "Number of volumes whose lock this server holds",
          MetricKind::gauge, "agro_volumes_attached"},
    Alias{"agro_server_peers_total", "Number of peers this server sees", MetricKind::gauge,
          "agro_cluster_peers"},
    Alias{"agro_storage_blocks", "Number of blocks in local storage", MetricKind::gauge,
          "agro_store_blocks"},
    Alias{"agro_storage_flushes", "Number of times the storage layer is synced to disk",
          MetricKind::counter, "agro_store_syncs_total"},
};

void add_alias(MetricsSnapshot& snapshot, const Alias& alias) {
  const auto source = snapshot.families().find(alias.source);
  if (source == snapshot.families().end()) return;
  const std::vector<Sample> samples = source->second.samples;
  for (const Sample& sample : samples) snapshot.add(alias.name, alias.help, alias.kind, sample);
}

const std::string* label_of(const Sample& sample, const std::string& name) {
  for (const auto& [label, value] : sample.labels) {
    if (label == name) return &value;
  }
  return nullptr;
}

/// How often each operation of a latency histogram was done.
void add_operation_counts(MetricsSnapshot& snapshot, const char* histogram, const char* name,
                          const char* help) {
  const auto source = snapshot.families().find(histogram);
  if (source == snapshot.families().end()) return;
  const std::vector<Sample> samples = source->second.samples;
  for (const Sample& sample : samples) {
    const std::string* op = label_of(sample, "op");
    if (op == nullptr) continue;
    snapshot.counter(name, help, static_cast<double>(sample.histogram.count()), {{"kind", *op}});
  }
}

/// One operation's latency in microseconds, as the original has it.
void add_microseconds(MetricsSnapshot& snapshot, const std::string& op, const char* name,
                      const char* help) {
  const auto source = snapshot.families().find("agro_volume_operation_seconds");
  if (source == snapshot.families().end()) return;
  const std::vector<Sample> samples = source->second.samples;
  for (const Sample& sample : samples) {
    const std::string* label = label_of(sample, "op");
    if (label == nullptr || *label != op) continue;
    snapshot.add(name, help, MetricKind::histogram, {{}, 0, sample.histogram, 1e6});
  }
}

/// Counts of keep-alives: the original's heartbeats.
void add_heartbeats(MetricsSnapshot& snapshot) {
  const auto source = snapshot.families().find("agro_mds_operation_seconds");
  if (source == snapshot.families().end()) return;
  double count = 0;
  for (const Sample& sample : source->second.samples) {
    const std::string* op = label_of(sample, "op");
    if (op != nullptr && *op == "keep_alive") count = static_cast<double>(sample.histogram.count());
  }
  snapshot.counter("agro_server_heartbeats", "Number of times this server has heartbeated to mds",
                   count);
}

}  // namespace

void add_original_series(MetricsSnapshot& snapshot, std::uint32_t block_size) {
  for (const Alias& alias : kAliases) add_alias(snapshot, alias);
  const auto sizes = snapshot.families().find("agro_store_size_bytes");
  if (sizes != snapshot.families().end()) {
    const std::vector<Sample> samples = sizes->second.samples;
    for (const Sample& sample : samples) {
      snapshot.gauge("agro_storage_blocks_total", "Number of full blocks that local storage can hold",
                     sample.value / block_size, sample.labels);
    }
  }
  snapshot.gauge("agro_storage_block_bytes", "Number of bytes per full block", block_size);
  add_operation_counts(snapshot, "agro_volume_operation_seconds", "agro_server_ops_total",
                       "Number of operations on volumes");
  add_operation_counts(snapshot, "agro_mds_operation_seconds", "agro_etcd_base_ops_total",
                       "Number of calls to the metadata store");
  add_heartbeats(snapshot);
  add_microseconds(snapshot, "read", "agro_server_file_block_read_us",
                   "Histogram of us taken to read from a volume through the layers");
  add_microseconds(snapshot, "write", "agro_server_file_block_write_us",
                   "Histogram of us taken to write to a volume through the layers");
}

}  // namespace agro

#include "block/snapshot_note.hpp"

#include <array>
#include <cstring>

namespace agro {
namespace {

/// docs/formats/inode.md, "Snapshot notes". The name follows.
struct NoteRecord {
  std::uint32_t magic;                  //   0  kMagic
  std::uint16_t version;                //   4  1
  std::uint16_t name_size;              //   6
  std::uint64_t volume;                 //   8
  std::uint64_t epoch;                  //  16
  std::uint64_t checkpoint_epoch;       //  24
  std::uint64_t root_index;             //  32
  std::uint64_t sequence;               //  40
  std::uint64_t log_end;                //  48
  std::uint64_t size_bytes;             //  56
  std::int64_t created_unix_ms;         //  64
  std::array<std::uint8_t, 16> cluster; //  72  of the origin; all zeros: none
  std::uint64_t origin_volume;          //  88
  std::uint64_t origin_epoch;           //  96
  std::uint64_t origin_log_end;         // 104
};
static_assert(sizeof(NoteRecord) == 112 && offsetof(NoteRecord, origin_log_end) == 104);
static_assert(std::has_unique_object_representations_v<NoteRecord>, "no hidden padding");
constexpr std::uint32_t kMagic = 0x31504E53;  // "SNP1"
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kNameSizeMax = 255;

}  // namespace

std::vector<std::byte> encode_snapshot_note(const SnapshotNote& note) {
  AGRO_ASSERT(note.name.size() <= kNameSizeMax);
  const StateId origin = note.origin.value_or(StateId{});
  const NoteRecord record{kMagic,
                          kVersion,
                          static_cast<std::uint16_t>(note.name.size()),
                          note.volume.value,
                          note.epoch.value,
                          note.checkpoint_epoch.value,
                          note.root_index,
                          note.sequence,
                          note.log_end,
                          note.size_bytes,
                          note.created_unix_ms,
                          origin.cluster.bytes,
                          origin.volume.value,
                          origin.epoch.value,
                          origin.log_end};
  std::vector<std::byte> bytes(sizeof record + note.name.size());
  store(MutableBytes(bytes), record);
  std::memcpy(bytes.data() + sizeof record, note.name.data(), note.name.size());
  return bytes;
}

bool is_snapshot_note(ConstBytes payload) {
  return payload.size() >= sizeof(NoteRecord) && load<NoteRecord>(payload).magic == kMagic;
}

Result<SnapshotNote> decode_snapshot_note(ConstBytes payload) {
  if (!is_snapshot_note(payload)) return fail(Errc::corrupt, "no note of a snapshot");
  const auto record = load<NoteRecord>(payload);
  if (record.version != kVersion) {
    return fail(Errc::not_supported, "a snapshot's note of another version: use a newer agro");
  }
  const ConstBytes name = payload.subspan(sizeof record);
  const bool is_sound = name.size() == record.name_size && record.name_size <= kNameSizeMax &&
                        record.checkpoint_epoch != 0 && record.log_end > record.sequence &&
                        record.size_bytes % kPageSize == 0;
  if (!is_sound) return fail(Errc::corrupt, "a snapshot's note that no writer writes");
  SnapshotNote note{{record.volume},     {record.epoch},    {record.checkpoint_epoch}, record.root_index,
                    record.sequence,     record.log_end,    record.size_bytes,         record.created_unix_ms,
                    std::nullopt,        std::string(as_text(name))};
  const StateId origin{Uuid{record.cluster}, {record.origin_volume}, {record.origin_epoch}, record.origin_log_end};
  if (origin != StateId{}) note.origin = origin;
  return note;
}

}  // namespace agro

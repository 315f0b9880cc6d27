// Backup files: golden bytes, and what is wrong with others.
#include "block/backup_format.hpp"

#include <gtest/gtest.h>

#include "base/crc32c.hpp"

namespace agro {
namespace {

const StateId kBase{Uuid{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}, {7}, {3}, 1042};

BackupHeader increment() {
  BackupHeader header;
  header.state = kBase;
  header.state.epoch = {4};
  header.state.log_end = 2000;
  header.base = kBase;
  header.size_bytes = 64 * 1024;
  header.created_unix_ms = 1'000'000;
  header.volume_name = "web";
  header.snapshot_name = "tuesday";
  header.base_name = "monday";
  return header;
}

void append(std::vector<std::byte>& out, ConstBytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }

/// Two sectors of data at 4096, eight of zeros at 32768.
std::vector<std::byte> small_backup() {
  std::vector<std::byte> file = encode_backup_header(increment());
  BackupProgress progress(file, 64 * 1024);
  const std::vector<std::byte> data(8192, std::byte{0x61});
  append(file, progress.encode({BackupKind::data, 4096, 8192, crc32c(data)}));
  append(file, data);
  append(file, progress.encode({BackupKind::zero, 32768, 32768, 0}));
  append(file, progress.encode_end());
  EXPECT_EQ(file.size(), progress.file_size());
  return file;
}

struct Told {
  BackupHeader header;
  std::vector<BackupRecord> records;
  bool at_end = false;
};

/// What a file of these bytes says, data checked. Errors: corrupt, not_supported.
Result<Told> read_backup(ConstBytes file) {
  Told told;
  if (file.size() < kBackupPrefixSize) return told;
  AGRO_TRY(const std::size_t header_size, backup_header_size(file.first(kBackupPrefixSize)));
  if (file.size() < header_size) return told;
  AGRO_TRY(told.header, decode_backup_header(file.first(header_size)));
  BackupProgress progress(file.first(header_size), told.header.size_bytes);
  file = file.subspan(header_size);
  while (!progress.at_end() && file.size() >= kBackupRecordSize) {
    AGRO_TRY(const BackupRecord record, progress.decode(file.first(kBackupRecordSize)));
    file = file.subspan(kBackupRecordSize);
    if (record.kind == BackupKind::data) {
      if (file.size() < record.size) return told;
      if (crc32c(file.first(record.size)) != record.data_crc32c) return fail(Errc::corrupt, "data");
      file = file.subspan(record.size);
    }
    if (!progress.at_end()) told.records.push_back(record);
  }
  told.at_end = progress.at_end();
  return told;
}

std::string hex(ConstBytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) {
    constexpr const char* kDigits = "0123456789abcdef";
    text += kDigits[std::to_integer<unsigned>(byte) / 16];
    text += kDigits[std::to_integer<unsigned>(byte) % 16];
  }
  return text;
}

// Goal: docs/formats/backup.md, "Example".
TEST(BackupFormatTest, GoldenBytes) {
  const std::vector<std::byte> file = small_backup();
  const ConstBytes bytes = file;
  ASSERT_EQ(file.size(), 140U + 40 + 8192 + 40 + 40);
  EXPECT_EQ(hex(bytes.first(140)),
            "4147524f424b500a010001008c000000"
            "0102030405060708090a0b0c0d0e0f1007000000000000000400000000000000d007000000000000"
            "0102030405060708090a0b0c0d0e0f10070000000000000003000000000000001204000000000000"
            "000001000000000040420f00000000000300070006000000"
            "776562747565736461796d6f6e646179ad0a7cd0");
  EXPECT_EQ(hex(bytes.subspan(140, 40)),
            "42444154020b319800100000000000000020000000000000000000000000000000000000a0a6f723");
  EXPECT_EQ(hex(bytes.last(80).first(40)),
            "425a45520000000000800000000000000080000000000000000000000000000000000000624848ea");
  EXPECT_EQ(hex(bytes.last(40)), "42454e440000000002000000000000000020000000000000008000000000000000000000ded7860e");
}

TEST(BackupFormatTest, SaysWhatWasWritten) {
  const Result<Told> told = read_backup(small_backup());
  ASSERT_TRUE(told.has_value()) << told.error().to_string();
  EXPECT_EQ(told->header, increment());
  EXPECT_TRUE(told->at_end);
  ASSERT_EQ(told->records.size(), 2U);
  EXPECT_EQ(told->records[0].offset, 4096U);
  EXPECT_EQ(told->records[1], (BackupRecord{BackupKind::zero, 32768, 32768, 0}));
  BackupHeader full = increment();
  full.base.reset();
  full.base_name.clear();
  const Result<BackupHeader> again = decode_backup_header(encode_backup_header(full));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(*again, full);
}

// Goal: whatever byte is wrong, it is found. Method: flip one bit of each byte.
TEST(BackupFormatTest, EveryByteIsChecked) {
  const std::vector<std::byte> file = small_backup();
  for (std::size_t index = 0; index < file.size(); ++index) {
    std::vector<std::byte> bad = file;
    bad[index] ^= static_cast<std::byte>(1U << index % 8);
    const Result<Told> told = read_backup(bad);
    // A size that grew makes a file that ends early.
    EXPECT_TRUE(!told.has_value() || !told->at_end) << "byte " << index;
  }
}

// Goal: a file that ends early is never taken for a whole one, wherever it ends, and what is there stays right.
TEST(BackupFormatTest, EveryTruncationIsSeen) {
  const std::vector<std::byte> file = small_backup();
  for (std::size_t size = 0; size < file.size(); ++size) {
    const Result<Told> told = read_backup(ConstBytes(file).first(size));
    ASSERT_TRUE(told.has_value()) << size << ": " << told.error().to_string();
    EXPECT_FALSE(told->at_end) << size;
  }
}

// Goal: a record that is left out, repeated, moved or of another file is refused, although its own bytes are sound.
TEST(BackupFormatTest, RecordsStayInTheirPlace) {
  std::vector<std::byte> header = encode_backup_header(increment());
  BackupHeader other_header = increment();
  other_header.created_unix_ms = 5;
  const std::vector<std::byte> other = encode_backup_header(other_header);
  const auto zeros = [](std::uint64_t offset) { return BackupRecord{BackupKind::zero, offset, 4096, 0}; };
  BackupProgress writer(header, 64 * 1024);
  const std::vector<std::byte> first = writer.encode(zeros(0));
  const std::vector<std::byte> second = writer.encode(zeros(4096));
  const std::vector<std::byte> end = writer.encode_end();
  using Files = std::vector<std::vector<std::byte>>;
  for (const Files& records : {Files{second}, {first, first}, {first, end}, {end}}) {
    BackupProgress reader(header, 64 * 1024);
    Result<BackupRecord> last;
    for (const std::vector<std::byte>& record : records) last = reader.decode(record);
    EXPECT_EQ(last.code(), Errc::corrupt);
  }
  BackupProgress reader(other, 64 * 1024);
  EXPECT_EQ(reader.decode(first).code(), Errc::corrupt);
}

/// A record's bytes with a right checksum, whatever they say.
std::vector<std::byte> sealed(std::vector<std::byte> record, ConstBytes header) {
  store(MutableBytes(record).last(4), crc32c(ConstBytes(record).first(36), load<std::uint32_t>(header.last(4))));
  return record;
}

// Goal: what no writer writes is refused, checksums or not.
TEST(BackupFormatTest, RefusesNonsense) {
  const std::vector<std::byte> header = encode_backup_header(increment());
  std::vector<std::byte> sound = BackupProgress(header, 64 * 1024).encode({BackupKind::data, 4096, 8192, 1});
  struct Case {
    std::size_t offset;
    std::uint64_t value;
  };
  for (const auto& [offset, value] :
       {Case{8, 4097}, {8, 60 * 1024}, {8, UINT64_MAX - 4095}, {16, 0}, {16, 100}, {16, std::uint64_t{2} << 20},
        {24, 1}, {0, 0}, {0, 0x444E4542}, {0, 0x52455A42 | std::uint64_t{7} << 32}}) {
    std::vector<std::byte> record = sound;
    store(MutableBytes(record).subspan(offset), value);
    EXPECT_EQ(BackupProgress(header, 64 * 1024).decode(sealed(record, header)).code(), Errc::corrupt)
        << offset << " " << value;
  }
  EXPECT_TRUE(BackupProgress(header, 64 * 1024).decode(sealed(sound, header)).has_value());
}

TEST(BackupFormatTest, HeadersOfOthers) {
  std::vector<std::byte> header = encode_backup_header(increment());
  EXPECT_TRUE(is_backup(header));
  EXPECT_FALSE(is_backup(ConstBytes(header).first(7)));
  store(MutableBytes(header).subspan(8), std::uint16_t{2});
  EXPECT_EQ(backup_header_size(ConstBytes(header).first(kBackupPrefixSize)).code(), Errc::not_supported);
  header[0] = std::byte{0};
  EXPECT_FALSE(is_backup(header));
  EXPECT_EQ(backup_header_size(ConstBytes(header).first(kBackupPrefixSize)).code(), Errc::corrupt);
  const auto changed = [](std::size_t offset, std::uint64_t value) {
    std::vector<std::byte> bytes = encode_backup_header(increment());
    store(MutableBytes(bytes).subspan(offset), value);
    store(MutableBytes(bytes).last(4), crc32c(ConstBytes(bytes).first(bytes.size() - 4)));
    return decode_backup_header(bytes).code();
  };
  EXPECT_EQ(changed(96, 64 * 1024), Errc::ok);
  EXPECT_EQ(changed(96, 0), Errc::corrupt);
  EXPECT_EQ(changed(96, 100), Errc::corrupt);
  EXPECT_EQ(changed(112, 3 | 7 << 16 | std::uint64_t{300} << 32), Errc::corrupt);
  EXPECT_EQ(changed(112, 3 | 7 << 16 | std::uint64_t{6} << 32 | std::uint64_t{1} << 48), Errc::corrupt);
}

}  // namespace
}  // namespace agro

// Goal: the bytes of ADP are those of docs/formats/adp.md, and nothing else is taken for them.
#include "distributor/protocols/adp/adp_frame.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/crc32c.hpp"

namespace agro {
namespace {

constexpr std::uint32_t kPayloadMax = 1 << 20;
const BlockRef kRef{VolumeId{5}, Epoch{2}, 1, BlockType::data};

std::string hex(ConstBytes bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

AdpHeader request(AdpOp op, std::uint64_t id) {
  AdpHeader header;
  header.op = static_cast<std::uint8_t>(op);
  header.request_id = id;
  return header;
}

Uuid uuid_of(std::uint8_t first) {
  Uuid id;
  for (std::size_t index = 0; index < 16; ++index) {
    id.bytes[index] = static_cast<std::uint8_t>(first + index);
  }
  return id;
}

TEST(AdpFrameTest, GoldenBytes) {
  EXPECT_EQ(hex(encode_adp_frame(request(AdpOp::has, 7), encode_adp_has({0, {kRef}}), 0)),
            "4144503101040000"
            "0700000000000000"
            "2000000000000000"
            "334fcac3db7e8a19"
            "0000000000000000"
            "0500000000010000"
            "0200000000000000"
            "0100000000000000");
  EXPECT_EQ(hex(encode_adp_error(AdpOp::write, 258, {Errc::fenced, "no"})),
            "4144503101820600"
            "0201000000000000"
            "0200000000000000"
            "186ff3ba8c7006a5"
            "6e6f");
  EXPECT_EQ(hex(encode_adp_hello({uuid_of(0x10), uuid_of(0x80), 1 << 20})),
            "101112131415161718191a1b1c1d1e1f"
            "808182838485868788898a8b8c8d8e8f"
            "00001000"
            "000000000000000000000000");
  EXPECT_EQ(hex(encode_adp_write({kRef, 258})),
            "0500000000010000"
            "0200000000000000"
            "0100000000000000"
            "0201000000000000");
  const std::uint32_t sizes[] = {0, 258};
  EXPECT_EQ(hex(encode_adp_sizes(sizes)), "0000000002010000");
  EXPECT_EQ(hex(encode_adp_start(WorkKind::scrub)), "02000000");
  EXPECT_EQ(hex(encode_adp_read({kRef, 4096, 8192})),
            "0500000000010000"
            "0200000000000000"
            "0100000000000000"
            "00100000"
            "00200000");
  BlockFilter filter;
  filter.volume = VolumeId{9};
  filter.epoch = Epoch{3};
  filter.index_from = 4;
  EXPECT_EQ(hex(encode_adp_filter(filter)),
            "05000000"
            "00000000"
            "0900000000000000"
            "0300000000000000"
            "0400000000000000");
  EXPECT_EQ(hex(encode_adp_fence({VolumeId{1}, Epoch{2}})),
            "0100000000000000"
            "0200000000000000");
  const BlockInfo info{kRef, 0x12345};
  EXPECT_EQ(hex(encode_adp_entries({&info, 1})),
            "0500000000010000"
            "0200000000000000"
            "0100000000000000"
            "45230100");
}

TEST(AdpFrameTest, BodiesComeBack) {
  const AdpHello hello{uuid_of(1), uuid_of(2), 65536};
  EXPECT_EQ(decode_adp_hello(encode_adp_hello(hello)).value(), hello);
  const AdpHas has{5, {kRef, kRef}};
  EXPECT_EQ(decode_adp_has(encode_adp_has(has)).value(), has);
  const AdpWrite write{kRef, 77};
  EXPECT_EQ(decode_adp_write(encode_adp_write(write)).value(), write);
  const AdpRead read{kRef, 4096, 100};
  EXPECT_EQ(decode_adp_read(encode_adp_read(read), kPayloadMax).value(), read);
  const std::vector<std::uint32_t> crcs{1, 0xFFFFFFFF, 7};
  EXPECT_EQ(decode_adp_crcs(encode_adp_crcs(crcs)).value(), crcs);
  EXPECT_EQ(decode_adp_sizes(encode_adp_sizes(crcs), 3).value(), crcs);
  EXPECT_EQ(decode_adp_start(encode_adp_start(WorkKind::gc)).value(), WorkKind::gc);
  for (int which = 0; which < 8; ++which) {
    BlockFilter filter;
    if ((which & 1) != 0) filter.volume = VolumeId{kVolumeIdMax};
    if ((which & 2) != 0) filter.type = BlockType::inode;
    if ((which & 4) != 0) filter.epoch = Epoch{UINT64_MAX};
    filter.index_from = 12;
    const BlockFilter back = decode_adp_filter(encode_adp_filter(filter)).value();
    EXPECT_EQ(back.volume, filter.volume);
    EXPECT_EQ(back.type, filter.type);
    EXPECT_EQ(back.epoch, filter.epoch);
    EXPECT_EQ(back.index_from, filter.index_from);
  }
  const std::vector<BlockInfo> infos{{kRef, 1},
                                     {BlockRef{VolumeId{6}, Epoch{1}, 9, BlockType::ecc}, 2}};
  std::vector<BlockInfo> infos_back;
  ASSERT_TRUE(decode_adp_entries(encode_adp_entries(infos), infos_back).has_value());
  EXPECT_EQ(infos_back, infos);
  const std::vector<BlockRef> refs{kRef, infos[1].ref};
  EXPECT_EQ(decode_adp_refs(encode_adp_refs(refs)).value(), refs);
  const AdpFence fence{VolumeId{3}, Epoch{UINT64_MAX}};
  EXPECT_EQ(decode_adp_fence(encode_adp_fence(fence)).value(), fence);
  const PeerStat stat{uuid_of(9), {1, 2, 3, 4, 5, 6, 7}};
  const PeerStat stat_back = decode_adp_stat(encode_adp_stat(stat)).value();
  EXPECT_EQ(stat_back.id, stat.id);
  EXPECT_EQ(stat_back.store.size, 1U);
  EXPECT_EQ(stat_back.store.available, 3U);
  EXPECT_EQ(stat_back.store.bytes_written, 7U);
}

TEST(AdpFrameTest, ErrorsComeBackPrintable) {
  const std::vector<std::byte> frame =
      encode_adp_error(AdpOp::read, 1, {Errc::corrupt, "bad\nblock" + std::string(5000, 'x')});
  const AdpHeader header = decode_adp_header(frame, 0).value();
  const ConstBytes body = ConstBytes(frame).subspan(kAdpHeaderSize);
  ASSERT_EQ(body.size(), kAdpErrorTextMax);
  const Error error = decode_adp_error(header, body);
  EXPECT_EQ(error.code, Errc::corrupt);
  EXPECT_TRUE(error.message.starts_with("bad blockxxx"));
  AdpHeader strange = header;
  strange.status = 200;
  EXPECT_EQ(decode_adp_error(strange, body).code, Errc::protocol_error);
}

struct HeaderCase {
  const char* name;
  std::function<void(AdpHeader&)> change;
  Errc code;
};

// Goal: every field of a header is checked. Method: change one at a time, under a right checksum.
TEST(AdpFrameTest, RefusesBadHeaders) {
  const std::vector<HeaderCase> cases = {
      {"nothing", [](AdpHeader&) {}, Errc::ok},
      {"magic", [](AdpHeader& h) { h.magic ^= 1; }, Errc::protocol_error},
      {"version", [](AdpHeader& h) { h.version = 2; }, Errc::not_supported},
      {"op 0", [](AdpHeader& h) { h.op = 0; }, Errc::protocol_error},
      {"op 9", [](AdpHeader& h) { h.op = 9; }, Errc::protocol_error},
      {"reply op 9", [](AdpHeader& h) { h.op = 0x89; }, Errc::protocol_error},
      {"status", [](AdpHeader& h) { h.status = 1; }, Errc::protocol_error},
      {"flags", [](AdpHeader& h) { h.flags = 16; }, Errc::protocol_error},
      {"all flags", [](AdpHeader& h) { h.flags = 15; }, Errc::ok},
      {"large body", [](AdpHeader& h) { h.body_size = kAdpBodySizeMax + 1; }, Errc::protocol_error},
      {"largest body", [](AdpHeader& h) { h.body_size = kAdpBodySizeMax; }, Errc::ok},
      {"large payload", [](AdpHeader& h) { h.payload_size = kPayloadMax + 1; },
       Errc::protocol_error},
      {"payload of has", [](AdpHeader& h) { h.op = 4, h.payload_size = 1; }, Errc::protocol_error},
      {"payload of an error", [](AdpHeader& h) { h.op = 0x83, h.status = 2, h.payload_size = 1; },
       Errc::protocol_error},
      {"payload of a read reply", [](AdpHeader& h) { h.op = 0x83; }, Errc::ok},
      {"long error",
       [](AdpHeader& h) { h.op = 0x84, h.status = 2, h.payload_size = 0, h.body_size = 1025; },
       Errc::protocol_error},
  };
  for (const HeaderCase& entry : cases) {
    SCOPED_TRACE(entry.name);
    AdpHeader header = request(AdpOp::write, 1);
    header.payload_size = kPayloadMax;
    entry.change(header);
    header.header_crc32c = crc32c(std::as_bytes(std::span(&header, 1)).first(28));
    const ConstBytes bytes = std::as_bytes(std::span(&header, 1));
    EXPECT_EQ(decode_adp_header(bytes, kPayloadMax).code(), entry.code);
  }
}

// Goal: a flipped bit anywhere in header or body is noticed.
TEST(AdpFrameTest, ChecksumsCoverEverything) {
  const std::vector<std::byte> good =
      encode_adp_frame(request(AdpOp::has, 7), encode_adp_has({0, {kRef}}), 0);
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    SCOPED_TRACE(bit);
    std::vector<std::byte> bytes = good;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    const Result<AdpHeader> header = decode_adp_header(bytes, kPayloadMax);
    if (bit < kAdpHeaderSize * 8) {
      EXPECT_FALSE(header.has_value());
    } else {
      const ConstBytes body = ConstBytes(bytes).subspan(kAdpHeaderSize);
      EXPECT_EQ(check_adp_body(*header, body).code(), Errc::protocol_error);
    }
  }
}

TEST(AdpFrameTest, RefusesBadBodies) {
  const std::vector<std::byte> bytes(100);
  const ConstBytes odd(bytes);
  EXPECT_EQ(decode_adp_hello(odd).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_has(odd.first(7)).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_has(odd.first(24)).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_write(odd.first(24)).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_read(odd.first(31), 1).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_read(odd.first(32), 1).code(), Errc::protocol_error);  // size 0
  EXPECT_EQ(decode_adp_read(encode_adp_read({kRef, 0, 2}), 1).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_read(encode_adp_read({kRef, UINT32_MAX, 1}), 1).code(),
            Errc::protocol_error);
  EXPECT_EQ(decode_adp_crcs(odd.first(3)).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_sizes(odd, 24).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_start(odd.first(4)).code(), Errc::protocol_error);  // kind 0
  const std::vector<std::byte> many((kAdpItemsPerFrame + 1) * kBlockRefSize);
  EXPECT_EQ(decode_adp_refs(many).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_filter(odd).code(), Errc::protocol_error);
  std::vector<std::byte> filter(32);
  filter[0] = std::byte{8};
  EXPECT_EQ(decode_adp_filter(filter).code(), Errc::protocol_error);
  filter[0] = std::byte{2};
  filter[5] = std::byte{1};
  EXPECT_EQ(decode_adp_filter(filter).code(), Errc::protocol_error);
  std::vector<BlockInfo> infos;
  EXPECT_EQ(decode_adp_entries(odd, infos).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_refs(odd).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_fence(odd).code(), Errc::protocol_error);
  EXPECT_EQ(decode_adp_fence(encode_adp_fence({VolumeId{kVolumeIdMax + 1}, Epoch{}})).code(),
            Errc::protocol_error);
  EXPECT_EQ(decode_adp_stat(odd).code(), Errc::protocol_error);
}

}  // namespace
}  // namespace agro

#include "internal/nbd_kernel/netlink_message.hpp"

#include <fmt/format.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cstring>

namespace agro::nbd_kernel {
namespace {

constexpr std::size_t kHeadSize = NLMSG_HDRLEN + GENL_HDRLEN;

template <class T>
T load(ConstBytes bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

template <class T>
ConstBytes bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

Error malformed(const char* what) { return {Errc::protocol_error, fmt::format("netlink: {}", what)}; }

}  // namespace

NetlinkRequest::NetlinkRequest(std::uint16_t family, std::uint8_t command, std::uint32_t sequence)
    : bytes_(kHeadSize) {
  nlmsghdr head{};
  head.nlmsg_type = family;
  head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  head.nlmsg_seq = sequence;
  genlmsghdr generic{};
  generic.cmd = command;
  generic.version = NBD_GENL_VERSION;
  std::memcpy(bytes_.data(), &head, sizeof head);
  std::memcpy(bytes_.data() + NLMSG_HDRLEN, &generic, sizeof generic);
}

void NetlinkRequest::add_bytes(std::uint16_t type, ConstBytes value, std::size_t zeroes) {
  nlattr head{};
  head.nla_type = type;
  head.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + value.size() + zeroes);
  const ConstBytes head_bytes = bytes_of(head);
  bytes_.insert(bytes_.end(), head_bytes.begin(), head_bytes.end());
  bytes_.insert(bytes_.end(), value.begin(), value.end());
  bytes_.resize(NLA_ALIGN(bytes_.size() + zeroes));
}

void NetlinkRequest::add(std::uint16_t type, std::uint32_t value) { add_bytes(type, bytes_of(value), 0); }
void NetlinkRequest::add(std::uint16_t type, std::uint64_t value) { add_bytes(type, bytes_of(value), 0); }
void NetlinkRequest::add(std::uint16_t type, std::string_view text) { add_bytes(type, as_bytes(text), 1); }

std::size_t NetlinkRequest::begin(std::uint16_t type) {
  const std::size_t begun = bytes_.size();
  add_bytes(type | NLA_F_NESTED, {}, 0);
  return begun;
}

void NetlinkRequest::end(std::size_t begun) {
  const auto size = static_cast<std::uint16_t>(bytes_.size() - begun);
  std::memcpy(bytes_.data() + begun + offsetof(nlattr, nla_len), &size, sizeof size);
}

ConstBytes NetlinkRequest::bytes() {
  const auto size = static_cast<std::uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &size, sizeof size);
  return bytes_;
}

const NetlinkAttribute* NetlinkMessage::find(std::uint16_t attribute_type) const {
  const auto found = std::find_if(attributes.begin(), attributes.end(),
                                  [&](const NetlinkAttribute& one) { return one.type == attribute_type; });
  return found == attributes.end() ? nullptr : &*found;
}

Result<std::vector<NetlinkAttribute>> parse_attributes(ConstBytes bytes) {
  std::vector<NetlinkAttribute> attributes;
  while (!bytes.empty()) {
    if (bytes.size() < NLA_HDRLEN) return fail(malformed("half an attribute"));
    const auto head = load<nlattr>(bytes);
    if (head.nla_len < NLA_HDRLEN || head.nla_len > bytes.size())
      return fail(malformed("the length of an attribute is wrong"));
    const auto type = static_cast<std::uint16_t>(head.nla_type & NLA_TYPE_MASK);
    attributes.push_back({type, bytes.first(head.nla_len).subspan(NLA_HDRLEN)});
    bytes = bytes.subspan(std::min<std::size_t>(NLA_ALIGN(head.nla_len), bytes.size()));
  }
  return attributes;
}

Result<std::vector<NetlinkMessage>> parse_netlink(ConstBytes bytes) {
  std::vector<NetlinkMessage> messages;
  while (!bytes.empty()) {
    if (bytes.size() < NLMSG_HDRLEN) return fail(malformed("half a message"));
    const auto head = load<nlmsghdr>(bytes);
    if (head.nlmsg_len < NLMSG_HDRLEN || head.nlmsg_len > bytes.size())
      return fail(malformed("the length of a message is wrong"));
    const ConstBytes body = bytes.first(head.nlmsg_len).subspan(NLMSG_HDRLEN);
    NetlinkMessage message;
    message.type = head.nlmsg_type;
    message.sequence = head.nlmsg_seq;
    if (head.nlmsg_type == NLMSG_ERROR) {
      if (body.size() < sizeof(nlmsgerr)) return fail(malformed("half an error"));
      message.error = -load<nlmsgerr>(body).error;
    } else if (head.nlmsg_type >= NLMSG_MIN_TYPE) {
      if (body.size() < GENL_HDRLEN) return fail(malformed("half a command"));
      message.command = load<genlmsghdr>(body).cmd;
      AGRO_TRY(message.attributes, parse_attributes(body.subspan(GENL_HDRLEN)));
    }
    messages.push_back(std::move(message));
    bytes = bytes.subspan(std::min<std::size_t>(NLMSG_ALIGN(head.nlmsg_len), bytes.size()));
  }
  return messages;
}

Result<std::uint32_t> attribute_u32(const NetlinkAttribute* attribute) {
  if (attribute == nullptr || attribute->value.size() < sizeof(std::uint32_t))
    return fail(malformed("a number is missing"));
  return load<std::uint32_t>(attribute->value);
}

Result<std::uint16_t> attribute_u16(const NetlinkAttribute* attribute) {
  if (attribute == nullptr || attribute->value.size() < sizeof(std::uint16_t))
    return fail(malformed("a number is missing"));
  return load<std::uint16_t>(attribute->value);
}

Result<NbdFamily> parse_family(const NetlinkMessage& message) {
  NbdFamily family;
  AGRO_TRY(family.id, attribute_u16(message.find(CTRL_ATTR_FAMILY_ID)));
  const NetlinkAttribute* groups = message.find(CTRL_ATTR_MCAST_GROUPS);
  if (groups == nullptr) return fail(malformed("the family nbd has no events"));
  AGRO_TRY(const std::vector<NetlinkAttribute> listed, parse_attributes(groups->value));
  for (const NetlinkAttribute& group : listed) {
    NetlinkMessage inside;
    AGRO_TRY(inside.attributes, parse_attributes(group.value));
    AGRO_TRY(family.events_group, attribute_u32(inside.find(CTRL_ATTR_MCAST_GRP_ID)));
    return family;  // it has one
  }
  return fail(malformed("the family nbd has no events"));
}

}  // namespace agro::nbd_kernel

// What requests must look like, for every call alike; pure functions.
//
// Source: the CSI specification 1.9, where errors of each call are tables.
#pragma once

#include <google/protobuf/repeated_ptr_field.h>

#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/result.hpp"
#include "csi/csi.pb.h"
#include "core/block_ref.hpp"
#include "metadata/metadata.hpp"

namespace agro::csi {

namespace v1 = ::csi::v1;

/// Whether we can give it: one node at a time; block, or ext4, ext3 or xfs. Errors: invalid_argument, saying why not.
Result<void> check_capability(const v1::VolumeCapability& capability);
/// At least one, each good, and not block and file system at once. Errors: invalid_argument.
Result<void> check_capabilities(const google::protobuf::RepeatedPtrField<v1::VolumeCapability>& capabilities);
bool is_read_only(const v1::VolumeCapability& capability);
/// "ext4", unless another is asked for. Shape: a mount capability.
std::string fs_type_of(const v1::VolumeCapability& capability);

/// A size of ours that fits: 4 KiB multiples, the least that will do, `floor` at least (a source's size, or the present size).
/// Errors: invalid_argument (negative); too_large (nothing fits: OUT_OF_RANGE).
Result<std::uint64_t> choose_size(const v1::CapacityRange& range, std::uint64_t floor);
/// Whether an existing volume of `size` will do.
bool fits(const v1::CapacityRange& range, std::uint64_t size);

using Parameters = std::map<std::string, std::string>;

/// Of a StorageClass: replication, blockSpec; what starts with "csi.storage.k8s.io/" is the orchestrator's own.
struct CreateParameters {
  std::uint32_t replication = 0;  // 0: the ring's
  std::string block_spec;         // empty: the cluster's
};
/// Errors: invalid_argument.
Result<CreateParameters> parse_parameters(const Parameters& parameters);
/// Of a VolumeAttributesClass: iops, bandwidth; a number above zero, or "none". Errors: invalid_argument.
Result<VolumeChange> parse_mutable_parameters(const Parameters& parameters);

template <class Map>
Parameters to_parameters(const Map& map) {
  return Parameters(map.begin(), map.end());
}

/// An absolute path without "..". Errors: invalid_argument, naming `field`.
Result<void> check_path(const std::string& path, const char* field);
/// Errors: invalid_argument, when it is empty.
Result<void> check_given(const std::string& text, const char* field);

/// Ends one of two calls about the same thing at the same time, as the specification has it: ABORTED, try again.
class Underway {
 public:
  class Hold {
   public:
    Hold(Underway* of, std::string key) : of_(of), key_(std::move(key)) {}
    Hold(Hold&& other) noexcept : of_(std::exchange(other.of_, nullptr)), key_(std::move(other.key_)) {}
    Hold& operator=(Hold&&) = delete;
    ~Hold() {
      if (of_ != nullptr) of_->keys_.erase(key_);
    }

   private:
    Underway* of_;
    std::string key_;
  };
  /// Errors: conflict.
  Result<Hold> begin(std::string key);

 private:
  std::set<std::string> keys_;
};

}  // namespace agro::csi

// What the parts of Metadata share; for metadata*.cpp only.
#pragma once

#include <fmt/format.h>

#include "metadata/keys.hpp"
#include "metadata/metadata.hpp"
#include "models/codec.hpp"

namespace agro {

/// Optimistic transactions lose only to somebody else's success; so many losses in a row are no
/// luck.
inline constexpr int kAttemptsMax = 64;

/// The keys of one volume outside the view, as read at one revision.
struct Metadata::VolumeKeys {
  Epoch epoch;
  KeyValue epoch_entry;
  VolumeHead head;
  KeyValue head_entry;
  std::optional<VolumeLock> lock;
  KeyValue lock_entry;
  std::optional<std::uint32_t> degraded_copies;
  KeyValue degraded_entry;  // where there is one
};

inline tl::unexpected<Error> fail_contended(std::string_view what) {
  return fail(Errc::conflict,
              fmt::format("{}: others keep changing the same metadata; try again", what));
}

/// A read failed; when a transaction is still unresolved, that is what the caller must hear.
inline tl::unexpected<Error> fail_read(bool unresolved, Error error) {
  if (!unresolved) return fail(std::move(error));
  return fail(Errc::outcome_unknown,
              "a metadata transaction may or may not have happened: " + error.message);
}

}  // namespace agro

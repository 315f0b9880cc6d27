// Dump and restore: the metadata as one text file, whatever store it is in.
//
// Invariants: what stands under a lease (who is alive, who has a volume open) is in no dump; a dump
// that was changed or cut short is refused; a restore that did not end leaves no cluster record, so
// that nothing starts on half of it. Threading: one loop.
// Format: docs/formats/metadata_keys.md, "Dumps".
#pragma once

#include <string>
#include <vector>

#include "metadata/kv.hpp"

namespace agro {

/// Everything at one revision. Errors: not_found, when the store holds nothing; those of Kv.
Task<std::string> dump_metadata(Kv& kv);

/// Puts back what dump_metadata() gave; returns how many keys. `replace`: whatever is there goes
/// first. Errors: corrupt, not_supported (no dump, or a newer one); already_exists, when the store
/// is not empty and `replace` is not set; locked, when peers run or volumes are open; those of Kv.
Task<std::size_t> restore_metadata(Kv& kv, std::string text, bool replace);

/// Puts `ops` into a store that holds nothing, in parts; the last makes the cluster's record.
/// `replace`, errors: as restore_metadata().
Task<void> fill_metadata(Kv& kv, std::vector<KvOp> ops, bool replace);

/// Whether fill_metadata() would begin. Errors: already_exists, locked, as restore_metadata().
Task<void> check_fillable(Kv& kv, bool replace);

}  // namespace agro

// The SQLite file of SqliteStore: opening, checking and making it.
#pragma once

#include <memory>
#include <string>

#include "metadata/sqlite/database.hpp"

namespace agro {

/// An open file with our tables, checked. Errors: as SqliteStore::open().
Result<std::unique_ptr<Database>> open_metadata_file(const std::string& path, bool create);

}  // namespace agro

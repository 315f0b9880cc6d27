// Where the blocks of a peer lie: in its data directory or on a device, of which the directory keeps a note.
//
// So nobody begins a second, empty store where one is, because an option was forgotten.
// Format: DIR/device is the path of the device as it was given, and a newline.
#pragma once

#include <string>

#include "base/disk.hpp"

namespace agro {

/// The device of the peer of a data directory; empty: its blocks are in the directory, or it is new.
Task<std::string> noted_device(Disk& disk, std::string directory);

/// Whether a peer may start with this device (empty: none). Errors: invalid_argument: its blocks are elsewhere.
Task<void> check_store_place(Disk& disk, std::string directory, std::string device);

/// To be called when the store is open.
Task<void> note_device(Disk& disk, std::string directory, std::string device);

}  // namespace agro

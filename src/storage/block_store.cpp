#include "storage/block_store.hpp"

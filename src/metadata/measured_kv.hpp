// A metadata store whose calls are timed, as agro_mds_operation_seconds.
#pragma once

#include "base/env.hpp"
#include "metadata/kv.hpp"

namespace agro {

/// open_kv(), with every call timed. `env` outlives the store. Errors: those of open_kv().
Task<std::unique_ptr<Kv>> open_measured_kv(Env& env, std::string uri, bool create);

}  // namespace agro

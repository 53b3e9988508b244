#ifndef GRAFT_SERVER_ENGINE_TORCH_ENGINE_H_
#define GRAFT_SERVER_ENGINE_TORCH_ENGINE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/engine/engine.h"
#include "server/engine/engine_options.h"

namespace graft {

// Loads the base model of `options` and keeps it resident. Takes seconds; any
// thread. MODEL_UNSUPPORTED names the file and key of what is missing or not
// supported; GPU_OUT_OF_MEMORY.
absl::StatusOr<std::unique_ptr<Engine>> CreateTorchEngine(
    const EngineOptions& options);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_TORCH_ENGINE_H_

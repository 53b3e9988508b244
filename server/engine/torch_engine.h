#ifndef GRAFT_SERVER_ENGINE_TORCH_ENGINE_H_
#define GRAFT_SERVER_ENGINE_TORCH_ENGINE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/engine/engine.h"
#include "server/engine/engine_options.h"

namespace graft {

// Loads the base model of `options` and keeps it resident. Takes seconds; any
// thread. MODEL_UNSUPPORTED names the file and key of what is missing or not
// supported; GPU_OUT_OF_MEMORY.
absl::StatusOr<std::unique_ptr<Engine>> CreateTorchEngine(
    const EngineOptions& options);

// Called with each phase of a switch ("check", "reserve", "write", "commit")
// and the name of the parameter at hand, or "", from any thread. What it throws
// is a failure there.
using SwitchFault =
    std::function<void(absl::string_view phase, const std::string& name)>;

// The same with failures injected.
absl::StatusOr<std::unique_ptr<Engine>> CreateTorchEngineForTesting(
    const EngineOptions& options, SwitchFault fault);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_TORCH_ENGINE_H_

#ifndef GRAFT_SERVER_ENGINE_ENGINE_OPTIONS_H_
#define GRAFT_SERVER_ENGINE_ENGINE_OPTIONS_H_

#include <string>

namespace graft {

enum class ComputeDtype { kAuto, kFloat32, kBFloat16, kFloat16 };

// How the switcher gets back to the base weights. Both give the same bits.
enum class RestoreMode {
  // Subtract what was merged, and set right what rounding lost from a small
  // log.
  kUndoLog,
  kBackup,  // a pristine copy of every adapted weight
};

struct EngineOptions {
  // A diffusers-format folder with model_index.json.
  std::string model_dir;
  // "auto" (cuda:0 where there is one, else the CPU), "cpu" or "cuda:N". A
  // named device that is not there is an error, never a fall-back.
  std::string device = "auto";
  // kAuto: float16 on a GPU, float32 on the CPU.
  ComputeDtype dtype = ComputeDtype::kAuto;
  RestoreMode restore = RestoreMode::kUndoLog;
  // CPU threads for compute; 0: UsableProcessors().
  int threads = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_ENGINE_OPTIONS_H_

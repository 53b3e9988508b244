#ifndef GRAFT_SERVER_SCHEDULING_GENERATION_METADATA_H_
#define GRAFT_SERVER_SCHEDULING_GENERATION_METADATA_H_

#include <vector>

#include "server/engine/engine.h"
#include "server/engine/generation_params.h"
#include "server/image/png_encoder.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// The text chunks of one image's PNG file:
//
//   parameters  the recipe as AUTOMATIC1111's web UI writes and reads it ("PNG
//               info"): the prompt, perhaps a line "Negative prompt: ...", and
//               a last line of "Key: value" pairs.
//   graft       the same and more as JSON, with the SHA-256 of base and
//               adapters and their weights: what proves which adapters made it.
//
// A function of its arguments alone: no times, durations or request ids, so
// that the same request gives the same file.
PngText GenerationMetadata(const EngineInfo& engine,
                           const GenerationParams& params,
                           const std::vector<AppliedAdapter>& adapters);

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_GENERATION_METADATA_H_

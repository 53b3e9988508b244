#ifndef GRAFT_SERVER_ADAPTERS_ORIGIN_GUESS_H_
#define GRAFT_SERVER_ADAPTERS_ORIGIN_GUESS_H_

#include <string>

#include "server/engine/module_table.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {

// What a file that does not fit seems to be, for the message.
struct OriginGuess {
  std::string what;      // no adapter, but "a ControlNet"; empty: no idea
  std::string made_for;  // an adapter, but for this other family: "SDXL"
};

// Guesses from the names and shapes in `file`, which does not fit `base`.
OriginGuess GuessOrigin(const SafetensorsFile& file, const ModuleTable& base);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ORIGIN_GUESS_H_

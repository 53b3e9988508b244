#ifndef GRAFT_CLIENT_ADAPTER_OPTION_H_
#define GRAFT_CLIENT_ADAPTER_OPTION_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "graft/v1/generation.pb.h"

namespace graft {

// How --adapter is written.
inline constexpr char kAdapterOptionForm[] =
    "NAME[=WEIGHT[:TEXT_ENCODER_WEIGHT]][@FROM-TO]";

// The adapters of a request as the command line names them, in order, each
// written as kAdapterOptionForm. One name with several step ranges is one
// adapter with a schedule. INVALID_ARGUMENT says what is wrong with which of
// `texts`; the server checks names and ranges of numbers.
absl::StatusOr<std::vector<v1::AdapterRef>> ParseAdapterOptions(
    const std::vector<std::string>& texts);

}  // namespace graft

#endif  // GRAFT_CLIENT_ADAPTER_OPTION_H_

#ifndef GRAFT_TESTS_ADAPTERS_PARSE_BYTES_H_
#define GRAFT_TESTS_ADAPTERS_PARSE_BYTES_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/adapters/adapter_parser.h"
#include "server/engine/module_table.h"

namespace graft {

// The adapter in the bytes of a file "file.safetensors", for a base with
// `modules`.
absl::StatusOr<ParsedAdapter> ParseBytes(
    const ModuleTable& modules, const std::string& bytes,
    const AdapterParser::Options& options = AdapterParser::Options());

}  // namespace graft

#endif  // GRAFT_TESTS_ADAPTERS_PARSE_BYTES_H_

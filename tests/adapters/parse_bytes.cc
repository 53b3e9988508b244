#include "tests/adapters/parse_bytes.h"

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {

absl::StatusOr<ParsedAdapter> ParseBytes(
    const ModuleTable& modules, const std::string& bytes,
    const AdapterParser::Options& options) {
  const auto owner = std::make_shared<const std::string>(bytes);
  const absl::Span<const uint8_t> span(
      reinterpret_cast<const uint8_t*>(owner->data()), owner->size());
  GRAFT_ASSIGN_OR_RETURN(
      const SafetensorsFile file,
      SafetensorsFile::Parse(owner, span, "file.safetensors", {}));
  GRAFT_ASSIGN_OR_RETURN(const auto parser, AdapterParser::Create(&modules));
  return parser->Parse(file, "file.safetensors",
                       Sha256Hex(bytes.data(), bytes.size()), options);
}

}  // namespace graft

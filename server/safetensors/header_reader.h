#ifndef GRAFT_SERVER_SAFETENSORS_HEADER_READER_H_
#define GRAFT_SERVER_SAFETENSORS_HEADER_READER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// What the header says about one tensor; nothing is checked against the data.
struct HeaderEntry {
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // offsets into the data section
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, HeaderEntry> entries;
  std::map<std::string, std::string> metadata;
};

// The error of a damaged file: ADAPTER_CORRUPT, with the file's name, the
// tensor at fault where there is one (`tensor` is untrusted: it is escaped),
// and what to do about it.
absl::Status CorruptFile(absl::string_view file, absl::string_view tensor,
                         absl::string_view problem);
absl::Status CorruptFile(absl::string_view file, absl::string_view problem);

// Reads the JSON of a safetensors header without building a tree of it, so that
// memory stays in proportion to `json`. `file` is for messages only.
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(absl::string_view json,
                                                        absl::string_view file);

}  // namespace graft

#endif  // GRAFT_SERVER_SAFETENSORS_HEADER_READER_H_

#ifndef GRAFT_TESTS_FUZZ_SAFETENSORS_FILE_H_
#define GRAFT_TESTS_FUZZ_SAFETENSORS_FILE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/safetensors/safetensors_file.h"
#include "server/safetensors/tensor_view.h"

// Safetensors files, put together of any parts.
namespace graft {

struct FileTensor {
  std::string key;
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<int64_t> shape;
  std::string bytes;
};

struct FileContent {
  std::vector<FileTensor> tensors;
  std::map<std::string, std::string> metadata;
};

// A file of it. Nothing is checked, so a tensor's shape may be another than
// that of its bytes. What is not UTF-8 is replaced.
std::string ToFile(const FileContent& content);

// What is in a file.
FileContent ContentOf(const SafetensorsFile& file);

// A header with its length in front and the data that it describes, all zero,
// behind it; where that would be more than `max_data` bytes, none.
std::string WithLengthAndData(absl::string_view header, size_t max_data);

// SafetensorsFile::Parse of a copy, which checks what it promises of a file
// that it accepts and of the error if it does not.
std::optional<SafetensorsFile> ParseAndCheck(absl::string_view bytes);

// For dictionaries.
std::vector<std::string> SafetensorsWords();

}  // namespace graft

#endif  // GRAFT_TESTS_FUZZ_SAFETENSORS_FILE_H_

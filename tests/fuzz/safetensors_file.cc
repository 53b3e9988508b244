#include "tests/fuzz/safetensors_file.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "server/common/error.h"
#include "server/common/utf8.h"
#include "server/safetensors/header_reader.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

std::string LengthOf(absl::string_view header) {
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) {
    length[i] = static_cast<char>(uint64_t{header.size()} >> (8 * i));
  }
  return length;
}

// By hand: two tensors may have the same key.
std::string Quote(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string ToFile(const FileContent& content) {
  std::string header;
  std::string data;
  if (!content.metadata.empty()) {
    header = "\"__metadata__\":{";
    for (const auto& [key, value] : content.metadata) {
      header += Quote(key) + ":" + Quote(value) + ",";
    }
    header.back() = '}';
  }
  for (const FileTensor& tensor : content.tensors) {
    if (!header.empty()) header += ",";
    const Json entry = {
        {"dtype", std::string(TensorDtypeName(tensor.dtype))},
        {"shape", tensor.shape},
        {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    header += Quote(tensor.key) + ":" + entry.dump();
    data += tensor.bytes;
  }
  header = "{" + header + "}";
  return LengthOf(header) + header + data;
}

FileContent ContentOf(const SafetensorsFile& file) {
  FileContent content;
  content.metadata = file.metadata();
  for (const auto& [key, tensor] : file.tensors()) {
    content.tensors.push_back(
        {key, tensor.dtype, tensor.shape,
         std::string(tensor.bytes.begin(), tensor.bytes.end())});
  }
  return content;
}

std::string WithLengthAndData(absl::string_view header, size_t max_data) {
  uint64_t size = 0;
  if (const auto read = ReadSafetensorsHeader(header, "file"); read.ok()) {
    for (const auto& [key, entry] : read->entries) {
      size = std::max(size, entry.end);
    }
  }
  return LengthOf(header) + std::string(header) +
         std::string(size > max_data ? 0 : size, '\0');
}

std::optional<SafetensorsFile> ParseAndCheck(absl::string_view bytes) {
  const auto owner =
      std::make_shared<std::unique_ptr<uint8_t[]>>(new uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), owner->get());
  auto file = SafetensorsFile::Parse(
      owner, absl::MakeConstSpan(owner->get(), bytes.size()), "file", {});
  if (!file.ok()) {
    GRAFT_FUZZ_CHECK(GetErrorReason(file.status()) ==
                     ErrorReason::kAdapterCorrupt);
    GRAFT_FUZZ_CHECK(IsValidUtf8(file.status().message()));
    return std::nullopt;
  }
  const uint8_t* const end = owner->get() + bytes.size();
  size_t total = 0;
  for (const auto& [key, tensor] : file->tensors()) {
    GRAFT_FUZZ_CHECK(IsValidUtf8(key));
    GRAFT_FUZZ_CHECK(std::all_of(tensor.shape.begin(), tensor.shape.end(),
                                 [](int64_t size) { return size >= 0; }));
    GRAFT_FUZZ_CHECK(static_cast<uint64_t>(tensor.num_elements()) *
                         TensorDtypeSize(tensor.dtype) ==
                     tensor.bytes.size());
    GRAFT_FUZZ_CHECK(tensor.bytes.begin() >= owner->get() &&
                     tensor.bytes.end() <= end);
    total += tensor.bytes.size();
  }
  GRAFT_FUZZ_CHECK(total <= bytes.size() - 8);
  return *std::move(file);
}

std::vector<std::string> SafetensorsWords() {
  std::vector<std::string> words = {
      "{",
      "}",
      "[",
      "]",
      "\"",
      ",",
      ":",
      "-",
      "0",
      "1",
      "e9",
      "1.5",
      "null",
      "true",
      "{}",
      "[[",
      "\"\"",
      "[0,0]",
      "\\u0000",
      "\\ud800",
      "\xff",
      "__metadata__",
      "\"dtype\":",
      "\"shape\":",
      "\"data_offsets\":",
      "2147483648",
      "4294967296",
      "4611686018427387904",
      "9223372036854775807",
      "18446744073709551615",
  };
  for (const TensorDtype dtype : kAllTensorDtypes) {
    words.emplace_back(TensorDtypeName(dtype));
  }
  return words;
}

}  // namespace graft

// The reader of safetensors files: an input is a file, and once more the header
// of one that has the data that the header speaks of.

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_file.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

constexpr size_t kMaxData = size_t{64} << 10;

bool Same(const FileContent& a, const FileContent& b) {
  if (a.metadata != b.metadata || a.tensors.size() != b.tensors.size()) {
    return false;
  }
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    if (a.tensors[i].key != b.tensors[i].key ||
        a.tensors[i].dtype != b.tensors[i].dtype ||
        a.tensors[i].shape != b.tensors[i].shape ||
        a.tensors[i].bytes != b.tensors[i].bytes) {
      return false;
    }
  }
  return true;
}

// What was accepted means the same when it is written and read again.
void CheckFile(absl::string_view bytes) {
  const std::optional<SafetensorsFile> file = ParseAndCheck(bytes);
  if (!file.has_value()) return;
  const FileContent content = ContentOf(*file);
  const std::optional<SafetensorsFile> again = ParseAndCheck(ToFile(content));
  GRAFT_FUZZ_CHECK(again.has_value() && Same(content, ContentOf(*again)));
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  const std::string lora = TinyLoraFile();
  return {{
              lora,
              lora.substr(8, lora.find("}}") - 6),
              "{}",
              R"({"__metadata__":{"a":"b","c":"\u00e9"},"t":{"dtype":"F16",)"
              R"("shape":[2,3],"data_offsets":[0,12]},"u":{"dtype":"U8",)"
              R"("shape":[],"data_offsets":[12,13],"more":[{"x":[]}]}} )",
              R"({"__metadata__":null,"t":{"dtype":"BOOL","shape":[0,7],)"
              R"("data_offsets":[0,0]}})",
          },
          SafetensorsWords()};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  graft::CheckFile(input);
  graft::CheckFile(graft::WithLengthAndData(input, graft::kMaxData));
  return 0;
}

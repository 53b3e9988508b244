#ifndef GRAFT_TESTS_TESTING_ADAPTER_FILE_BUILDER_H_
#define GRAFT_TESTS_TESTING_ADAPTER_FILE_BUILDER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// Makes the bytes of a safetensors file. Everything can be said that the format
// can say, and with Corrupt() much that it cannot.
//
//   std::string bytes = AdapterFileBuilder()
//       .Add("m.alpha", TensorDtype::kF32, {}, {4.0})
//       .Metadata("ss_output_name", "ink")
//       .Build();
class AdapterFileBuilder {
 public:
  // `values` are converted to `dtype`, and repeated until the shape is full.
  AdapterFileBuilder& Add(absl::string_view key, TensorDtype dtype,
                          std::vector<int64_t> shape,
                          std::vector<double> values = {0.5, -0.25});

  // An F32 pair "<module>.lora_down.weight" and "<module>.lora_up.weight" with
  // an alpha equal to the rank.
  AdapterFileBuilder& AddKohyaPair(absl::string_view module,
                                   std::vector<int64_t> down,
                                   std::vector<int64_t> up);

  AdapterFileBuilder& Remove(absl::string_view key);

  AdapterFileBuilder& Metadata(absl::string_view key, absl::string_view value);

  // Replaces the first occurrence of `from` in the JSON header by `to`. The
  // header's length is adapted, the data is not.
  AdapterFileBuilder& Corrupt(absl::string_view from, absl::string_view to);

  std::string Build() const;

 private:
  struct Entry {
    std::string key;
    TensorDtype dtype;
    std::vector<int64_t> shape;
    std::string bytes;
  };
  struct Replacement {
    std::string from;
    std::string to;
  };

  std::string Header() const;

  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
  std::vector<Replacement> replacements_;
};

// A valid LoRA (rank 2, U-Net and text encoder) for FakeEngine::TinyModules().
// Each `variant` is another content.
std::string TinyLoraFile(int variant = 0);

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_ADAPTER_FILE_BUILDER_H_

// Adapters whose file is sound: an input chooses an algorithm, modules and what
// is changed in keys, shapes, dtypes and values of a good file.

#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "server/adapters/key_suffixes.h"
#include "tests/fuzz/adapter_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_file.h"
#include "tests/testing/random_adapter_file.h"

namespace graft {
namespace {

constexpr size_t kMaxTensorBytes = size_t{64} << 10;

constexpr TensorDtype kWeightDtypes[] = {TensorDtype::kF32, TensorDtype::kF16,
                                         TensorDtype::kBF16, TensorDtype::kF64};

constexpr int64_t kSizes[] = {0,
                              1,
                              2,
                              3,
                              4,
                              6,
                              8,
                              16,
                              24,
                              36,
                              72,
                              int64_t{1} << 31,
                              int64_t{1} << 62,
                              std::numeric_limits<int64_t>::max()};

constexpr double kValues[] = {0,
                              1,
                              -1,
                              1e-40,
                              3e38,
                              1e300,
                              std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::quiet_NaN()};

constexpr absl::string_view kPrefixes[] = {"",
                                           "unet.",
                                           "text_encoder.",
                                           "base_model.model.",
                                           "base_model.model.text_model.",
                                           "diffusion_model.",
                                           "model.diffusion_model.",
                                           "clip_l.",
                                           "text_encoders.clip_l.transformer.",
                                           "bundle_emb.",
                                           "clip_l.text_projection"};

constexpr absl::string_view kMetadataKeys[] = {"lora_adapter_metadata",
                                               "ss_tag_frequency",
                                               "ss_output_name",
                                               "modelspec.trigger_phrase",
                                               "ss_base_model_version",
                                               "ss_sd_model_name",
                                               ""};

constexpr absl::string_view kComponents[] = {"", "unet", "text_encoder"};

std::string SuffixOf(FuzzInput& input) {
  constexpr size_t kCount = static_cast<size_t>(KeyPart::kScalar) + 1;
  return std::string(PartSuffix(static_cast<KeyPart>(input.Below(kCount))));
}

// As many bytes as the shape needs, repeated from those that are there. Where
// that is too much the shape stays a lie.
void FitBytes(FileTensor& tensor) {
  uint64_t size = TensorDtypeSize(tensor.dtype);
  for (const int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(size, static_cast<uint64_t>(dimension), &size)) {
      return;
    }
  }
  if (size > kMaxTensorBytes) return;
  const std::string pattern =
      tensor.bytes.empty() ? std::string(8, '\0') : tensor.bytes;
  while (tensor.bytes.size() < size) tensor.bytes += pattern;
  tensor.bytes.resize(size);
}

void SetValue(FileTensor& tensor, size_t index, double value) {
  char bytes[8] = {};
  const size_t size = TensorDtypeSize(tensor.dtype);
  if (size == 8) {
    std::memcpy(bytes, &value, 8);
  } else {
    // Of 16 bits: the upper half, which is bfloat16's, and for float16 another
    // value, but infinity and NaN too.
    const auto single = static_cast<float>(value);
    char wide[4];
    std::memcpy(wide, &single, 4);
    std::memcpy(bytes, wide + (4 - std::min<size_t>(size, 4)),
                std::min<size_t>(size, 4));
  }
  if (tensor.bytes.size() < size) return;
  tensor.bytes.replace(index % (tensor.bytes.size() / size) * size, size, bytes,
                       size);
}

// The tensor's key, up to what its part is told by.
std::string ModuleOf(const std::string& key) {
  if (const auto split = SplitDottedKey(key)) return std::string(split->path);
  return key.substr(0, key.find('.'));
}

// The dotted name of the module that has kohya's name `flat`.
std::string DottedName(const ModuleTable& table, const std::string& flat) {
  for (const ModuleInfo& module : table.modules) {
    if (KohyaName(module.name) != flat) continue;
    absl::string_view path = module.name;
    return std::string(
        absl::StripPrefix(absl::StripPrefix(path, "unet."), "text_encoder."));
  }
  return flat;
}

void ChangeShape(FuzzInput& input, FileTensor& tensor) {
  std::vector<int64_t>& shape = tensor.shape;
  const size_t at = input.Below(shape.size());
  switch (input.Below(5)) {
    case 0:
      if (!shape.empty()) shape[at] = input.Pick(kSizes);
      break;
    case 1:
      shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(at),
                   input.Pick(kSizes));
      break;
    case 2:
      if (!shape.empty()) {
        shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(at));
      }
      break;
    case 3:
      if (!shape.empty()) std::swap(shape[0], shape[at]);
      break;
    case 4:  // flat from `at` on
      while (shape.size() > at + 1) {
        const int64_t last = shape.back();
        shape.pop_back();
        if (__builtin_mul_overflow(shape.back(), last, &shape.back())) {
          shape.back() = 0;
        }
      }
      break;
  }
  FitBytes(tensor);
}

void ChangeOne(FuzzInput& input, const ModuleTable& table,
               FileContent& content) {
  if (content.tensors.empty()) return;
  const size_t at = input.Below(content.tensors.size());
  FileTensor& tensor = content.tensors[at];
  switch (input.Below(9)) {
    case 0:
      tensor.key = ModuleOf(tensor.key) + SuffixOf(input);
      break;
    case 1: {
      const std::string module = ModuleOf(tensor.key);
      tensor.key = absl::StrCat(
          input.Pick(kPrefixes), DottedName(table, module),
          absl::StripPrefix(absl::string_view(tensor.key), module));
      break;
    }
    case 2:
    case 3:
      ChangeShape(input, tensor);
      break;
    case 4:
      tensor.dtype = input.Pick(kAllTensorDtypes);
      FitBytes(tensor);
      break;
    case 5:
      SetValue(tensor, input.Byte(), input.Pick(kValues));
      break;
    case 6:
      content.tensors.erase(content.tensors.begin() +
                            static_cast<std::ptrdiff_t>(at));
      break;
    case 7: {
      FileTensor copy = tensor;
      copy.key = ModuleOf(tensor.key) + SuffixOf(input);
      if (input.Bool()) ChangeShape(input, copy);
      content.tensors.push_back(std::move(copy));
      break;
    }
    case 8:
      content.metadata[std::string(input.Pick(kMetadataKeys))] = input.Text();
      break;
  }
}

// A good file for some of the table's modules.
FileContent GoodContent(FuzzInput& input, const ModuleTable& table) {
  const RandomAdapterKind kind = input.Pick(kAllRandomAdapterKinds);
  const int rank = 1 + static_cast<int>(input.Below(4));
  const TensorDtype dtype = input.Pick(kWeightDtypes);
  const uint8_t chosen = input.Byte();
  std::vector<ModuleInfo> modules;
  for (size_t i = 0; i < table.modules.size(); ++i) {
    if ((chosen >> (i % 8) & 1) == 0) modules.push_back(table.modules[i]);
  }
  const auto file = ParseAndCheck(
      RandomAdapterFile(kind, modules, rank, input.Byte(), dtype));
  GRAFT_FUZZ_CHECK(file.has_value());
  return ContentOf(*file);
}

void Run(FuzzInput input) {
  const ModuleTable& table = TinyTable();
  FileContent content = GoodContent(input, table);
  AdapterParser::Options options;
  options.allow_partial = input.Bool();
  options.component = std::string(input.Pick(kComponents));
  for (size_t changes = input.Below(6); changes > 0; --changes) {
    ChangeOne(input, table, content);
  }
  if (input.Bool()) options.peft_config = input.Rest();
  CheckAdapter(table, ToFile(content), options);
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  FuzzTarget target;
  target.max_bytes = 512;
  for (char kind = 0;
       kind < static_cast<char>(std::size(kAllRandomAdapterKinds)); ++kind) {
    for (char changes = 0; changes < 4; ++changes) {
      target.seeds.push_back(
          std::string{kind, 1, 0, 0, 1, changes, 0, changes} +
          std::string{1, changes, 2, 0, 3});
    }
  }
  // An "alpha" of which the number of elements overflowed before the 0.
  target.words = {R"({"peft_type":"LORA","lora_alpha":2})",
                  R"({"unet.lora_alpha":2})", R"({"a":{"b":3}})"};
  return target;
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  graft::Run(graft::FuzzInput(data, size));
  return 0;
}

#include "tests/testing/random_adapter_file.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

using Kind = RandomAdapterKind;
using Shape = std::vector<int64_t>;

// The largest divisor of `number` that is a multiple of `step` and at most
// `limit`; 0 if there is none.
int64_t DivisorUpTo(int64_t number, int64_t limit, int64_t step = 1) {
  for (int64_t divisor = limit - limit % step; divisor > 0; divisor -= step) {
    if (number % divisor == 0) return divisor;
  }
  return 0;
}

// Writes the tensors of one module after the other.
class FileWriter {
 public:
  FileWriter(int rank, uint64_t seed, TensorDtype dtype)
      : rank_(rank), dtype_(dtype), state_(seed) {}

  void AddModule(Kind kind, const ModuleInfo& module);

  std::string Build() const { return builder_.Build(); }

 private:
  bool has_kernel() const { return shape_.size() == 4 && shape_[2] > 1; }

  void AddTensor(absl::string_view suffix, Shape shape, double middle = 0);
  void AddScalar(absl::string_view suffix, double value) {
    builder_.Add(name_ + std::string(suffix), dtype_, {}, {value});
  }
  // [a, b] as the file writes it for the module: [a, b, 1, 1] if it is a
  // convolution.
  Shape Unit(int64_t a, int64_t b) const {
    return shape_.size() == 4 ? Shape{a, b, 1, 1} : Shape{a, b};
  }

  void AddByKind(Kind kind, const ModuleInfo& module);
  void AddLora(bool tucker);
  void AddLoha(bool tucker);
  void AddLokr(Kind kind);
  void AddMagnitude(bool on_input);
  void AddDiff(const ModuleInfo& module);
  void AddIa3(bool on_input);
  void AddGlora();
  void AddOft(bool constrained);
  void AddBoft();

  // splitmix64: the standard library's distributions differ.
  double NextUniform() {
    state_ += 0x9E3779B97F4A7C15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    z ^= z >> 31;
    return static_cast<double>(z >> 11) / static_cast<double>(1LL << 53);
  }

  const int64_t rank_;
  const TensorDtype dtype_;
  uint64_t state_;
  AdapterFileBuilder builder_;
  std::string name_;  // of the module at hand
  Shape shape_;
  int64_t out_ = 0;
  int64_t in_ = 0;
  int64_t kernel_ = 1;
};

void FileWriter::AddTensor(absl::string_view suffix, Shape shape,
                           double middle) {
  const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1},
                                        std::multiplies<>());
  std::vector<double> values(static_cast<size_t>(count));
  for (double& value : values) value = middle + (NextUniform() - 0.5) / 2;
  builder_.Add(name_ + std::string(suffix), dtype_, std::move(shape),
               std::move(values));
}

void FileWriter::AddModule(Kind kind, const ModuleInfo& module) {
  name_ = KohyaName(module.name);
  shape_ = module.weight_shape;
  out_ = shape_[0];
  in_ = shape_.size() > 1 ? shape_[1] : 1;
  kernel_ = shape_.size() == 4 ? shape_[2] : 1;
  const bool is_matrix =
      module.kind == ModuleKind::kLinear || module.kind == ModuleKind::kConv2d;
  if (kind == Kind::kDiff) return AddDiff(module);
  if (kind == Kind::kNorm) {
    if (module.kind != ModuleKind::kNorm) return;
    AddTensor(".w_norm", {out_});
    if (module.has_bias) AddTensor(".b_norm", {out_});
    return;
  }
  if (is_matrix) AddByKind(kind, module);
}

void FileWriter::AddByKind(Kind kind, const ModuleInfo& module) {
  switch (kind) {
    case Kind::kLora:
      return AddLora(false);
    case Kind::kLoraTucker:
      return AddLora(true);
    case Kind::kLoraBias:
      AddLora(false);
      if (module.has_bias) AddTensor(".lora_B.bias", {out_});
      return;
    case Kind::kLoha:
      return AddLoha(false);
    case Kind::kLohaTucker:
      return AddLoha(true);
    case Kind::kLokr:
    case Kind::kLokrWhole:
    case Kind::kLokrBoth:
    case Kind::kLokrTucker:
      return AddLokr(kind);
    case Kind::kDora:
    case Kind::kDoraInput:
      AddLora(false);
      return AddMagnitude(kind == Kind::kDoraInput);
    case Kind::kDoraLoha:
      AddLoha(false);
      return AddMagnitude(false);
    case Kind::kDoraLokr:
      AddLokr(Kind::kLokr);
      return AddMagnitude(false);
    case Kind::kIa3:
    case Kind::kIa3Input:
      return AddIa3(kind == Kind::kIa3Input);
    case Kind::kGlora:
      return AddGlora();
    case Kind::kOft:
    case Kind::kOftConstrained:
      return AddOft(kind == Kind::kOftConstrained);
    case Kind::kBoft:
      return AddBoft();
    case Kind::kDiff:
    case Kind::kNorm:
      return;
  }
}

void FileWriter::AddLora(bool tucker) {
  const int64_t k = kernel_;
  if (tucker && has_kernel()) {
    AddTensor(".lora_down.weight", Unit(rank_, in_));
    AddTensor(".lora_mid.weight", {rank_, rank_, k, k});
  } else {
    Shape down = shape_;
    down[0] = rank_;
    AddTensor(".lora_down.weight", std::move(down));
  }
  AddTensor(".lora_up.weight", Unit(out_, rank_));
  AddScalar(".alpha", static_cast<double>(rank_) / 2);
}

void FileWriter::AddLoha(bool tucker) {
  const int64_t k = kernel_;
  const bool core = tucker && has_kernel();
  for (const char* side : {"1", "2"}) {
    const std::string w = absl::StrCat(".hada_w", side);
    if (core) {
      AddTensor(absl::StrCat(".hada_t", side), {rank_, rank_, k, k});
    }
    AddTensor(w + "_a", core ? Shape{rank_, out_} : Shape{out_, rank_});
    AddTensor(w + "_b", {rank_, core ? in_ : in_ * k * k});
  }
  AddScalar(".alpha", static_cast<double>(rank_) / 2);
}

void FileWriter::AddLokr(Kind kind) {
  const int64_t k = kernel_;
  const int64_t a = DivisorUpTo(out_, std::min<int64_t>(out_, 4));
  const int64_t b = DivisorUpTo(in_, std::min<int64_t>(in_, 4));
  const int64_t c = out_ / a;
  const int64_t d = in_ / b;
  if (kind == Kind::kLokrBoth) {
    AddTensor(".lokr_w1_a", {a, rank_});
    AddTensor(".lokr_w1_b", {rank_, b});
  } else {
    AddTensor(".lokr_w1", {a, b});
  }
  if (kind == Kind::kLokrWhole) {
    AddTensor(".lokr_w2", shape_.size() == 4 ? Shape{c, d, k, k} : Shape{c, d});
  } else if (kind == Kind::kLokrTucker && has_kernel()) {
    AddTensor(".lokr_t2", {rank_, rank_, k, k});
    AddTensor(".lokr_w2_a", {rank_, c});
    AddTensor(".lokr_w2_b", {rank_, d});
  } else {
    AddTensor(".lokr_w2_a", {c, rank_});
    AddTensor(".lokr_w2_b", {rank_, d * k * k});
  }
  AddScalar(".alpha", static_cast<double>(rank_) / 2);
}

void FileWriter::AddMagnitude(bool on_input) {
  AddTensor(".dora_scale", on_input ? Unit(1, in_) : Unit(out_, 1), 1);
}

void FileWriter::AddDiff(const ModuleInfo& module) {
  AddTensor(".diff", shape_);
  if (module.has_bias) AddTensor(".diff_b", {out_});
}

void FileWriter::AddIa3(bool on_input) {
  const int64_t width = on_input ? in_ : out_;
  AddTensor(".weight",
            shape_.size() == 4 ? Shape{1, width, 1, 1} : Shape{width});
  builder_.Add(name_ + ".on_input", TensorDtype::kI64, {},
               {on_input ? 1.0 : 0.0});
}

void FileWriter::AddGlora() {
  AddTensor(".a1.weight", Unit(in_, rank_));
  AddTensor(".a2.weight", Unit(rank_, in_));
  AddTensor(".b1.weight", Unit(out_, rank_));
  Shape b2 = shape_;
  b2[0] = rank_;
  AddTensor(".b2.weight", std::move(b2));
  AddScalar(".alpha", static_cast<double>(rank_) / 2);
}

void FileWriter::AddOft(bool constrained) {
  const int64_t size = DivisorUpTo(out_, std::max<int64_t>(rank_, 2));
  if (size < 2) return;
  AddTensor(".oft_blocks", {out_ / size, size, size});
  if (!constrained) return;
  AddScalar(".alpha", 0.001);
  Shape rescale(shape_.size(), 1);
  rescale[0] = out_;
  AddTensor(".rescale", std::move(rescale), 1);
}

void FileWriter::AddBoft() {
  const int64_t size = DivisorUpTo(out_, std::max<int64_t>(rank_, 2), 2);
  if (size == 0) return;
  constexpr int64_t kMaxStages = 3;
  int64_t stages = 1;
  while (stages < kMaxStages && out_ % (size << stages) == 0) ++stages;
  AddTensor(".oft_blocks", {stages, out_ / size, size, size});
}

}  // namespace

absl::string_view RandomAdapterKindName(RandomAdapterKind kind) {
  switch (kind) {
    case Kind::kLora:
      return "Lora";
    case Kind::kLoraTucker:
      return "LoraTucker";
    case Kind::kLoraBias:
      return "LoraBias";
    case Kind::kLoha:
      return "Loha";
    case Kind::kLohaTucker:
      return "LohaTucker";
    case Kind::kLokr:
      return "Lokr";
    case Kind::kLokrWhole:
      return "LokrWhole";
    case Kind::kLokrBoth:
      return "LokrBoth";
    case Kind::kLokrTucker:
      return "LokrTucker";
    case Kind::kDora:
      return "Dora";
    case Kind::kDoraInput:
      return "DoraInput";
    case Kind::kDoraLoha:
      return "DoraLoha";
    case Kind::kDoraLokr:
      return "DoraLokr";
    case Kind::kDiff:
      return "Diff";
    case Kind::kNorm:
      return "Norm";
    case Kind::kIa3:
      return "Ia3";
    case Kind::kIa3Input:
      return "Ia3Input";
    case Kind::kGlora:
      return "Glora";
    case Kind::kOft:
      return "Oft";
    case Kind::kOftConstrained:
      return "OftConstrained";
    case Kind::kBoft:
      return "Boft";
  }
  return "Unknown";
}

std::string RandomAdapterFile(RandomAdapterKind kind,
                              const std::vector<ModuleInfo>& modules, int rank,
                              uint64_t seed, TensorDtype dtype) {
  FileWriter writer(rank, seed, dtype);
  for (const ModuleInfo& module : modules) writer.AddModule(kind, module);
  return writer.Build();
}

std::string KohyaName(absl::string_view module) {
  std::string prefix;
  if (absl::ConsumePrefix(&module, "unet.")) {
    prefix = "lora_unet_";
  } else if (absl::ConsumePrefix(&module, "text_encoder_2.")) {
    prefix = "lora_te2_";
  } else if (absl::ConsumePrefix(&module, "text_encoder.")) {
    prefix = "lora_te_";
  }
  return absl::StrCat(prefix, absl::StrReplaceAll(module, {{".", "_"}}));
}

}  // namespace graft

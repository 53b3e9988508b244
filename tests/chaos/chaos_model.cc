#include "tests/chaos/chaos_model.h"

#include <cstdlib>
#include <iostream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/safetensors/safetensors_file.h"
#include "tests/testing/random_adapter_file.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

ModuleKind KindOf(absl::string_view name, const TensorView& weight) {
  if (weight.shape.size() == 4) return ModuleKind::kConv2d;
  if (weight.shape.size() == 1) return ModuleKind::kNorm;
  return absl::EndsWith(name, "_embedding") ? ModuleKind::kEmbedding
                                            : ModuleKind::kLinear;
}

// The modules of one component, as its file names them.
void AddModules(const std::string& component, const std::string& path,
                std::vector<ModuleInfo>& modules) {
  const auto file = SafetensorsFile::Map(path, SafetensorsFile::Limits());
  if (!file.ok()) {
    std::cerr << file.status() << "\n";
    std::abort();
  }
  for (const auto& [key, tensor] : file->tensors()) {
    absl::string_view name = key;
    if (!absl::ConsumeSuffix(&name, ".weight")) continue;
    modules.push_back(
        {.name = absl::StrCat(component, ".", name),
         .kind = KindOf(name, tensor),
         .weight_shape = tensor.shape,
         .has_bias = file->tensors().count(absl::StrCat(name, ".bias")) > 0});
  }
}

}  // namespace

ChaosModel::ChaosModel() {
  WriteTinyModel(path(), TinyModelOptions());
  AddModules("unet", dir_.File("unet/diffusion_pytorch_model.safetensors"),
             modules_);
  AddModules("text_encoder", dir_.File("text_encoder/model.safetensors"),
             modules_);
}

std::string ChaosModel::AdapterFile(int index) const {
  const auto number = static_cast<size_t>(index);
  return RandomAdapterFile(
      kAllRandomAdapterKinds[number % std::size(kAllRandomAdapterKinds)],
      modules_, /*rank=*/2, /*seed=*/1000 + number);
}

}  // namespace graft

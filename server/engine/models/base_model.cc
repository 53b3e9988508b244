#include "server/engine/models/base_model.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/engine/models/model_files.h"

namespace graft {
namespace {

std::string FolderName(const std::string& folder) {
  // A trailing slash would leave an empty file name.
  const auto path = std::filesystem::path(folder + "/.").lexically_normal();
  return path.parent_path().filename().string();
}

// The components must fit each other, whatever each config says on its own.
absl::Status CheckComponentsFit(const BaseModel& model,
                                const std::string& folder) {
  const auto mismatch = [&](absl::string_view what, int64_t a, int64_t b) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat(folder, ": ", what, " (", a, " and ", b, ")"));
  };
  const int64_t text_width = model.text_config.hidden_size;
  if (text_width != model.unet_config.cross_attention_dim) {
    return mismatch(
        "text_encoder's hidden_size is not unet's cross_attention_dim",
        text_width, model.unet_config.cross_attention_dim);
  }
  const int64_t positions = model.text_config.max_position_embeddings;
  if (model.tokenizer->max_length() > positions) {
    return mismatch(
        "the tokenizer's model_max_length is more than text_encoder's "
        "max_position_embeddings",
        model.tokenizer->max_length(), positions);
  }
  if (model.tokenizer->vocab_size() > model.text_config.vocab_size) {
    return mismatch(
        "the tokenizer has more tokens than text_encoder's vocab_size",
        model.tokenizer->vocab_size(), model.text_config.vocab_size);
  }
  const int64_t channels = model.vae_config.latent_channels;
  if (model.unet_config.in_channels != channels ||
      model.unet_config.out_channels != channels) {
    return mismatch(
        "unet's in_channels and out_channels are not vae's latent_channels",
        model.unet_config.in_channels, channels);
  }
  return absl::OkStatus();
}

void FillStore(const ModelFiles& files, const VaeConfig& vae_config,
               WeightStore& store) {
  const bool upcast_vae = vae_config.force_upcast && store.dtype() == at::kHalf;
  for (const auto& [name, view] : files.tensors()) {
    const bool vae = absl::StartsWith(name, "vae.");
    // Images are made, not read: the VAE's encoder stays on disk.
    if (absl::StartsWith(name, "vae.encoder.") ||
        absl::StartsWith(name, "vae.quant_conv.")) {
      continue;
    }
    store.Add(name, view,
              vae && upcast_vae ? at::kFloat : at::ScalarType::Undefined);
  }
}

BaseFamily FamilyOf(const UnetConfig& config) {
  // The text encoder of SD 2.x is 1024 wide; all else of this pipeline class,
  // smaller models included, follows SD 1.x.
  return config.cross_attention_dim == 1024 ? BaseFamily::kSd2
                                            : BaseFamily::kSd1;
}

// The number of layers of every level, 0 where they differ.
int CommonLayersPerBlock(const UnetConfig& config) {
  const std::vector<int64_t>& layers = config.layers_per_block;
  const bool equal = std::all_of(layers.begin(), layers.end(),
                                 [&](int64_t n) { return n == layers[0]; });
  return equal ? static_cast<int>(layers[0]) : 0;
}

absl::Status BuildNetworks(BaseModel& model) {
  std::vector<ModuleInfo>& modules = model.modules.modules;
  LayerBuilder builder(model.store.get(), &modules);
  model.text_model =
      std::make_unique<ClipTextModel>(model.text_config, builder);
  model.unet = std::make_unique<Unet2dCondition>(model.unet_config, builder);
  LayerBuilder vae_builder(model.store.get(), /*modules=*/nullptr);
  model.vae = std::make_unique<VaeDecoder>(model.vae_config, vae_builder);
  GRAFT_RETURN_IF_ERROR(builder.status());
  GRAFT_RETURN_IF_ERROR(vae_builder.status());
  std::sort(
      modules.begin(), modules.end(),
      [](const ModuleInfo& a, const ModuleInfo& b) { return a.name < b.name; });
  model.modules.family = FamilyOf(model.unet_config);
  model.modules.unet_layers_per_block = CommonLayersPerBlock(model.unet_config);
  for (const std::string& name : model.store->UnusedNames()) {
    GRAFT_LOG(kWarning, "tensor of the model is not used", {{"tensor", name}});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BaseModel> LoadBaseModel(const std::string& folder,
                                        c10::Device device,
                                        c10::ScalarType dtype) {
  GRAFT_ASSIGN_OR_RETURN(const ModelFiles files, ModelFiles::Open(folder));
  BaseModel model;
  model.name = FolderName(folder);
  model.scheduler_config_path = files.Path("scheduler/scheduler_config.json");
  GRAFT_ASSIGN_OR_RETURN(model.unet_config,
                         ReadUnetConfig(files.Path("unet/config.json")));
  GRAFT_ASSIGN_OR_RETURN(model.vae_config,
                         ReadVaeConfig(files.Path("vae/config.json")));
  GRAFT_ASSIGN_OR_RETURN(
      model.text_config,
      ReadTextEncoderConfig(files.Path("text_encoder/config.json")));
  GRAFT_ASSIGN_OR_RETURN(model.tokenizer,
                         ClipTokenizer::Load(files.Path("tokenizer")));
  GRAFT_RETURN_IF_ERROR(CheckComponentsFit(model, folder));
  model.store = std::make_unique<WeightStore>(device, dtype);
  FillStore(files, model.vae_config, *model.store);
  GRAFT_RETURN_IF_ERROR(BuildNetworks(model));
  model.sha256 = files.Sha256();
  return model;
}

}  // namespace graft

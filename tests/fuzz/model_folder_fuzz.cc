// The configurations of a base model's folder: an input is a folder
// (file_sections.h), in which a safetensors file is its header alone.

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "server/common/error.h"
#include "server/engine/models/config_reader.h"
#include "server/engine/models/model_config.h"
#include "server/engine/models/model_files.h"
#include "tests/fuzz/file_sections.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_file.h"

namespace graft {
namespace {

constexpr size_t kMaxData = size_t{64} << 10;

constexpr char kIndex[] = R"({"_class_name":"StableDiffusionPipeline",)"
                          R"("unet":["diffusers","UNet2DConditionModel"],)"
                          R"("vae":["diffusers","AutoencoderKL"],)"
                          R"("text_encoder":["transformers","CLIPTextModel"],)"
                          R"("tokenizer":["transformers","CLIPTokenizer"]})";
constexpr char kUnet[] =
    R"({"_class_name":"UNet2DConditionModel","block_out_channels":[32,64],)"
    R"("attention_head_dim":[2,4],"cross_attention_dim":32,"act_fn":"silu",)"
    R"("down_block_types":["CrossAttnDownBlock2D","DownBlock2D"],)"
    R"("up_block_types":["UpBlock2D","CrossAttnUpBlock2D"],)"
    R"("layers_per_block":2,"norm_eps":1e-05,"sample_size":16,)"
    R"("mid_block_scale_factor":1,"dropout":0.0,"class_embed_type":null})";
constexpr char kVae[] =
    R"({"block_out_channels":[32,64],"latent_channels":4,"act_fn":"silu",)"
    R"("layers_per_block":1,"scaling_factor":0.18215,"shift_factor":null,)"
    R"("up_block_types":["UpDecoderBlock2D"],"norm_num_groups":32})";
constexpr char kText[] =
    R"({"hidden_size":32,"num_attention_heads":4,"num_hidden_layers":2,)"
    R"("vocab_size":100,"hidden_act":"quick_gelu","layer_norm_eps":Infinity})";
constexpr char kWeights[] =
    R"({"conv_in.weight":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}})";

template <typename Result>
bool CheckResult(const Result& result) {
  GRAFT_FUZZ_CHECK(result.ok() ||
                   GetErrorReason(result.status()) ==
                       ErrorReason::kModelUnsupported ||
                   absl::IsNotFound(result.status()));
  return result.ok();
}

void Check(const std::string& folder) {
  if (const auto unet = ReadUnetConfig(folder + "/unet/config.json");
      CheckResult(unet)) {
    const size_t blocks = unet->block_out_channels.size();
    GRAFT_FUZZ_CHECK(blocks > 0);
    GRAFT_FUZZ_CHECK(unet->layers_per_block.size() == blocks);
    GRAFT_FUZZ_CHECK(unet->transformer_layers.size() == blocks);
    GRAFT_FUZZ_CHECK(unet->num_attention_heads.size() == blocks);
    GRAFT_FUZZ_CHECK(unet->down_has_attention.size() == blocks);
    GRAFT_FUZZ_CHECK(unet->up_has_attention.size() == blocks);
  }
  if (const auto vae = ReadVaeConfig(folder + "/vae/config.json");
      CheckResult(vae)) {
    GRAFT_FUZZ_CHECK(!vae->block_out_channels.empty());
  }
  CheckResult(ReadTextEncoderConfig(folder + "/text_encoder/config.json"));
  if (const auto files = ModelFiles::Open(folder); CheckResult(files)) {
    GRAFT_FUZZ_CHECK(files->Sha256().size() == 64);
  }
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  const FileSections configs = {{"model_index.json", kIndex},
                                {"unet/config.json", kUnet},
                                {"vae/config.json", kVae},
                                {"text_encoder/config.json", kText}};
  FileSections plain = configs;
  plain.push_back({"unet/diffusion_pytorch_model.safetensors", kWeights});
  plain.push_back({"vae/diffusion_pytorch_model.safetensors", kWeights});
  plain.push_back({"text_encoder/model.safetensors", kWeights});
  FileSections sharded = plain;
  sharded[4] = {"unet/diffusion_pytorch_model.safetensors.index.json",
                R"({"weight_map":{"conv_in.weight":"a.safetensors"}})"};
  sharded.push_back({"unet/a.safetensors", kWeights});
  return {{JoinSections(configs), JoinSections(plain), JoinSections(sharded)},
          {"=== ",
           "model_index.json\n",
           "unet/config.json\n",
           "vae/config.json\n",
           "text_encoder/config.json\n",
           "unet/a.safetensors",
           "{",
           "}",
           "[",
           "]",
           "\"",
           ":",
           ",",
           "null",
           "true",
           "0",
           "-1",
           "1e308",
           "Infinity",
           "-Infinity",
           "9223372036854775807",
           "18446744073709551615",
           "\"weight_map\":",
           "\"..\"",
           "\"_class_name\":",
           "\"sample_size\":",
           "\"block_out_channels\":",
           "\"layers_per_block\":",
           "\"attention_head_dim\":",
           "\"norm_num_groups\":",
           "\"mid_block_type\":",
           "\"scaling_factor\":",
           "\"hidden_act\":",
           "\"x\":",
           "[[[[[[[[",
           ".position_ids",
           ".attentions.0.query.weight"},
          size_t{8} << 10,
          500};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const folder = new graft::FuzzFolder(
      {"model_index.json", "unet/config.json", "vae/config.json",
       "text_encoder/config.json", "text_encoder/model.safetensors",
       "unet/diffusion_pytorch_model.safetensors", "unet/a.safetensors",
       "unet/diffusion_pytorch_model.safetensors.index.json",
       "vae/diffusion_pytorch_model.safetensors"});
  graft::Check(folder->Fill({reinterpret_cast<const char*>(data), size},
                            [](absl::string_view name, std::string text) {
                              return absl::EndsWith(name, ".safetensors")
                                         ? graft::WithLengthAndData(
                                               text, graft::kMaxData)
                                         : text;
                            }));
  return 0;
}

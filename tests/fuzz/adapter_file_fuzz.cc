// Adapters from the bytes of a file on: names, algorithms, metadata, shapes.

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/adapters/key_suffixes.h"
#include "tests/adapters/hostile_files.h"
#include "tests/fuzz/adapter_check.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_file.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/random_adapter_file.h"

namespace graft {
namespace {

using Dtype = TensorDtype;

// Files whose keys have the names of all that write them, for SD 1.5.
std::vector<std::string> NamedFiles() {
  const std::pair<std::string, std::vector<int64_t>> modules[] = {
      {"lora_unet_mid_block_attentions_0_proj_in", {1280, 1280}},
      {"unet.down_blocks.1.resnets.0.time_emb_proj", {640, 1280}},
      {"base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_"
       "k",
       {1280, 768}},
      {"diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
       {640, 640}},
      {"text_encoder.text_model.encoder.layers.3.self_attn.to_q", {768, 768}},
      {"clip_l.text_model.encoder.layers.0.mlp.fc1", {3072, 768}},
      {"lycoris_text_model_encoder_layers_1_mlp_fc2", {768, 3072}},
  };
  std::vector<std::string> files;
  for (const auto& [name, shape] : modules) {
    const bool flat = name.find('.') == std::string::npos;
    files.push_back(
        AdapterFileBuilder()
            .Add(name + (flat ? ".lora_down.weight" : ".lora_A.weight"),
                 Dtype::kF16, {1, shape[1]})
            .Add(name + (flat ? ".lora_up.weight" : ".lora_B.weight"),
                 Dtype::kBF16, {shape[0], 1})
            .Add(name + ".alpha", Dtype::kF32, {}, {1})
            .Metadata("ss_tag_frequency", R"({"a":{"ink":3,"sea":1}})")
            .Metadata("ss_output_name", "ink")
            .Build());
  }
  files.push_back(
      AdapterFileBuilder()
          .Add("bundle_emb.x", Dtype::kF32, {2})
          .Add("clip_l.text_projection.lora_up.weight", Dtype::kF32, {2, 1},
               {0})
          .Add("clip_l.text_projection.lora_down.weight", Dtype::kF32, {1, 2})
          .Add("lora_unet_conv_norm_out.w_norm", Dtype::kF32, {320})
          .Metadata("lora_adapter_metadata",
                    R"({"unet.lora_alpha":2,"unet.use_rslora":true,)"
                    R"("unet.alpha_pattern":{"mid_block.*":4}})")
          .Metadata("ss_base_model_version", "sd_v1")
          .Build());
  return files;
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  FuzzTarget target{NamedFiles(), SafetensorsWords(), size_t{16} << 10};
  for (const RandomAdapterKind kind : kAllRandomAdapterKinds) {
    std::string file =
        RandomAdapterFile(kind, TinyTable().modules, 1, 1, TensorDtype::kF16);
    if (file.size() <= target.max_bytes) {
      target.seeds.push_back(std::move(file));
    }
  }
  for (HostileFile& file : AllHostileFiles()) {
    if (file.bytes.size() <= target.max_bytes) {
      target.seeds.push_back(std::move(file.bytes));
    }
  }
  for (int part = 0; part <= static_cast<int>(KeyPart::kScalar); ++part) {
    target.words.emplace_back(PartSuffix(static_cast<KeyPart>(part)));
  }
  for (const char* const word :
       {"lora_unet_", "lora_te_", "lycoris_", "unet.", "text_encoder.",
        "base_model.model.", "diffusion_model.", ".processor.", ".default",
        "bundle_emb.", "ss_tag_frequency", "lora_adapter_metadata",
        "\\\"unet.lora_alpha\\\":", "\\\"alpha_pattern\\\":"}) {
    target.words.emplace_back(word);
  }
  return target;
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using graft::AdapterParser;
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  for (const graft::ModuleTable* const table :
       {&graft::Sd15Table(), &graft::TinyTable()}) {
    graft::CheckAdapter(*table, input, {});
    graft::CheckAdapter(*table, input, {.allow_partial = true});
  }
  graft::CheckAdapter(graft::TinyTable(), input, {.component = "text_encoder"});
  return 0;
}

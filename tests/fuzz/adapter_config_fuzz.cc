// The configurations of PEFT folders and of diffusers' files: an input is the
// text of one, which is read as either.

#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_config.h"
#include "server/adapters/adapter_metadata.h"
#include "server/common/error.h"
#include "server/common/utf8.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

constexpr absl::string_view kModules[] = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.mid_block.resnets.1.conv1",
    "text_encoder.text_model.encoder.layers.11.self_attn.out_proj",
};

void Check(const absl::StatusOr<AdapterConfig>& config) {
  if (!config.ok()) {
    const auto reason = GetErrorReason(config.status());
    GRAFT_FUZZ_CHECK(reason == ErrorReason::kAdapterCorrupt ||
                     reason == ErrorReason::kAdapterKindUnsupported);
    GRAFT_FUZZ_CHECK(IsValidUtf8(config.status().message()));
    return;
  }
  for (const absl::string_view module : kModules) {
    const auto scale = config->Scale(module, 4);
    GRAFT_FUZZ_CHECK(scale == config->Scale(module, 4));
    config->UsesBias(module);
    config->UsesDora(module);
  }
}

// What is only shown to people.
void CheckDisplay(const std::string& text) {
  const FileMetadata metadata = {{"ss_tag_frequency", text},
                                 {"ss_base_model_version", text},
                                 {text, text}};
  for (const std::string& word : TriggerWords(metadata)) {
    GRAFT_FUZZ_CHECK(IsValidUtf8(word) && word.size() < 300);
  }
  GRAFT_FUZZ_CHECK(BaseHint(metadata).size() < 1000);
  for (const auto& [key, value] : DisplayMetadata(metadata)) {
    GRAFT_FUZZ_CHECK(IsValidUtf8(key) && IsValidUtf8(value));
  }
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  return {
      {
          R"({"peft_type":"LORA","lora_alpha":8,"r":4,"use_rslora":true,)"
          R"("alpha_pattern":{"down_blocks.0.*":4,"(?:to_q|to_k)$":2.5},)"
          R"("init_lora_weights":"gaussian","bias":"none",)"
          R"("fan_in_fan_out":false,"modules_to_save":null,)"
          R"("target_modules":["to_q"],"loftq_config":{"a":[{}]}})",
          R"({"unet.lora_alpha":8,"unet.use_dora":true,)"
          R"("text_encoder.lora_alpha":2,"text_encoder.lora_bias":false,)"
          R"("unet.alpha_pattern":{"^mid_block\\.resnets":1e3},)"
          R"("unet.init_lora_weights":true})",
          R"({"peft_type":"LORA","lora_alpha":1,"init_lora_weights":"pissa"})",
          R"({"images":{"ink":3,"blue sea":12},"more":{"ink":1}})",
      },
      {"{",
       "}",
       "[",
       "]",
       "\"",
       ",",
       ":",
       "null",
       "true",
       "false",
       "1e308",
       "-0",
       "0.5",
       "\"peft_type\":\"LORA\"",
       "\"lora_alpha\":",
       "\"use_rslora\":",
       "\"use_dora\":",
       "\"lora_bias\":",
       "\"alpha_pattern\":",
       "\"init_lora_weights\":",
       "\"fan_in_fan_out\":",
       "\"bias\":",
       "\"modules_to_save\":",
       "unet.",
       "text_encoder.",
       "pissa",
       "gaussian",
       "loftq",
       "(?:",
       ")",
       ".*",
       "{200}",
       "[a-z]",
       "|",
       "\\\\b",
       "\\u00e9",
       "\xff"},
      size_t{8} << 10};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  graft::Check(graft::AdapterConfig::ParsePeft(text));
  graft::Check(graft::AdapterConfig::Parse({{"lora_adapter_metadata", text}}));
  graft::CheckDisplay(text);
  return 0;
}

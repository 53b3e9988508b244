#include "server/adapters/key_names.h"

#include <ostream>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/unet_paths.h"
#include "server/common/error.h"
#include "tests/adapters/sd15_modules.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

const ModuleTable& Sd15() {
  static const auto* const table = new ModuleTable(Sd15Modules());
  return *table;
}

const KeyNames& Sd15Names() {
  static const auto* const names =
      new KeyNames(KeyNames::Create(&Sd15()).value());
  return *names;
}

// "module part", "? part" or "unknown".
std::string Describe(const std::string& key) {
  const auto match = Sd15Names().Find(key);
  if (!match.has_value()) return "unknown";
  const std::string module =
      match->module == nullptr ? "?" : match->module->name;
  switch (match->part) {
    case KeyPart::kDown:
      return module + " down";
    case KeyPart::kUp:
      return module + " up";
    case KeyPart::kAlpha:
      return module + " alpha";
    case KeyPart::kUpBias:
      return module + " bias";
    case KeyPart::kMagnitude:
    case KeyPart::kMagnitudeVector:
      return module + " magnitude";
    default:
      return module + " other";
  }
}

struct Example {
  const char* key;
  const char* module_and_part;
};

void PrintTo(const Example& example, std::ostream* os) { *os << example.key; }

class KeyNamesExampleTest : public testing::TestWithParam<Example> {};

TEST_P(KeyNamesExampleTest, IsFound) {
  EXPECT_EQ(Describe(GetParam().key), GetParam().module_and_part);
}

INSTANTIATE_TEST_SUITE_P(
    Kohya, KeyNamesExampleTest,
    testing::Values(
        Example{"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_"
                "attn2_to_out_0.lora_up.weight",
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2."
                "to_out.0 up"},
        Example{"lora_unet_output_blocks_2_1_conv.lora_down.weight",
                "unet.up_blocks.0.upsamplers.0.conv down"},
        Example{"lora_unet_output_blocks_5_2_conv.lora_down.weight",
                "unet.up_blocks.1.upsamplers.0.conv down"},
        Example{"lora_te_text_model_encoder_layers_11_mlp_fc2.alpha",
                "text_encoder.text_model.encoder.layers.11.mlp.fc2 alpha"},
        Example{"lora_te_encoder_layers_11_mlp_fc2.alpha",
                "text_encoder.text_model.encoder.layers.11.mlp.fc2 alpha"},
        Example{"lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_"
                "down.weight",
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj "
                "down"},
        Example{"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k."
                "alpha",
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2."
                "to_k alpha"},
        Example{"lora_unet_middle_block_0_emb_layers_1.lora_up.weight",
                "unet.mid_block.resnets.0.time_emb_proj up"},
        Example{"lora_unet_input_blocks_3_0_op.lora_down.weight",
                "unet.down_blocks.0.downsamplers.0.conv down"},
        Example{"lora_unet_down_blocks_2_resnets_0_conv_shortcut.lora_up."
                "weight",
                "unet.down_blocks.2.resnets.0.conv_shortcut up"},
        Example{"lora_unet_time_embed_2.lora_down.weight",
                "unet.time_embedding.linear_2 down"},
        Example{"lora_unet_conv_in.lora_down.weight", "unet.conv_in down"},
        Example{"lora_unet_mid_block_attentions_0_proj_in.lora_A.weight",
                "unet.mid_block.attentions.0.proj_in down"},
        Example{"lycoris_mid_block_attentions_0_transformer_blocks_0_ff_net_0_"
                "proj.lora_up.weight",
                "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0."
                "proj up"},
        Example{"lycoris_output_blocks_0_0_in_layers_2.lora_up.weight",
                "unet.up_blocks.0.resnets.0.conv1 up"},
        Example{"lycoris_text_model_encoder_layers_11_mlp_fc2.lora_up.weight",
                "text_encoder.text_model.encoder.layers.11.mlp.fc2 up"},
        Example{"lycoris_encoder_layers_0_self_attn_q_proj.lokr_w1",
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj "
                "other"},
        Example{"lora_te_text_model_encoder_layers_0_mlp_fc1.dora_scale",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1 magnitude"},
        Example{"oft_unet_mid_block_attentions_0_proj_in.oft_blocks",
                "unet.mid_block.attentions.0.proj_in other"}));

INSTANTIATE_TEST_SUITE_P(
    Diffusers, KeyNamesExampleTest,
    testing::Values(
        Example{"unet.mid_block.attentions.0.proj_in.lora_A.weight",
                "unet.mid_block.attentions.0.proj_in down"},
        Example{"mid_block.attentions.0.proj_in.lora_B.weight",
                "unet.mid_block.attentions.0.proj_in up"},
        Example{"unet.conv_in.lora_B.bias", "unet.conv_in bias"},
        Example{"unet.conv_in.lora_magnitude_vector", "unet.conv_in magnitude"},
        Example{"unet.mid_block.attentions.0.transformer_blocks.0.attn1."
                "processor.to_out_lora.down.weight",
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out."
                "0 down"},
        Example{"unet.mid_block.attentions.0.transformer_blocks.0.attn1."
                "processor.to_q_lora.up.weight",
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q "
                "up"},
        Example{"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q."
                "lora.down.weight",
                "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q "
                "down"},
        Example{"text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora."
                "up.weight",
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj "
                "up"},
        Example{"text_encoder.text_model.encoder.layers.0.self_attn.to_out_"
                "lora.down.weight",
                "text_encoder.text_model.encoder.layers.0.self_attn.out_proj "
                "down"},
        Example{"text_encoder.text_model.encoder.layers.0.self_attn.q_proj."
                "lora_linear_layer.down.weight",
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj "
                "down"},
        Example{"text_encoder.encoder.layers.0.mlp.fc1.lora_A.weight",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1 down"},
        Example{"unet.base_model.model.up_blocks.1.attentions.2.proj_out.lora_"
                "A.default.weight",
                "unet.up_blocks.1.attentions.2.proj_out down"},
        Example{"base_model.model.mid_block.attentions.0.proj_in.lora_B.weight",
                "unet.mid_block.attentions.0.proj_in up"},
        Example{"unet.conv_in.lora_B.style.bias", "unet.conv_in bias"},
        Example{"diffusion_model.output_blocks.5.1.transformer_blocks.0.ff.net."
                "0.proj.lora_up.weight",
                "unet.up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0."
                "proj up"},
        Example{"unet.output_blocks.5.1.proj_in.lora_up.weight",
                "unet.up_blocks.1.attentions.2.proj_in up"},
        Example{"model.diffusion_model.input_blocks.0.0.lora_up.weight",
                "unet.conv_in up"},
        Example{"text_encoders.clip_l.transformer.text_model.encoder.layers.0."
                "mlp.fc1.lora_up.weight",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1 up"},
        Example{"clip_l.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1 down"},
        Example{"clip_l.encoder.layers.0.mlp.fc1.alpha",
                "text_encoder.text_model.encoder.layers.0.mlp.fc1 alpha"}));

INSTANTIATE_TEST_SUITE_P(
    NoneOfThisBase, KeyNamesExampleTest,
    testing::Values(
        Example{"lora_unet_down_blocks_3_attentions_0_proj_in.alpha",
                "? alpha"},
        Example{"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
                "? alpha"},
        Example{"lora_te3_encoder_block_0.lora_down.weight", "? down"},
        Example{"lora_unet_conv_in", "unknown"},
        Example{"lora_unet_conv_in.lora_sideways.weight", "unknown"},
        Example{"model.diffusion_model.input_blocks.0.0.weight", "unknown"},
        Example{"", "unknown"}, Example{".", "unknown"},
        Example{".alpha", "? alpha"}, Example{"lora_A.weight", "unknown"},
        Example{".lora_A..weight", "? down"}));

TEST(KeyNamesTest, TellsTheFormat) {
  EXPECT_EQ(Sd15Names().Find("lora_unet_conv_in.alpha")->format,
            KeyFormat::kKohya);
  EXPECT_EQ(Sd15Names().Find("unet.conv_in.lora_A.weight")->format,
            KeyFormat::kDiffusers);
  EXPECT_EQ(Sd15Names().Find("base_model.model.conv_in.lora_A.weight")->format,
            KeyFormat::kPeft);
}

// SD 1.5 has one text encoder only.
TEST(KeyNamesTest, TheSecondTextEncoderHasItsNamesToo) {
  const ModuleTable table{
      BaseFamily::kSdxl,
      2,
      {{"text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
        ModuleKind::kLinear,
        {4, 4},
        true},
       {"text_encoder_2.text_projection", ModuleKind::kLinear, {4, 4}, false}}};
  const KeyNames names = KeyNames::Create(&table).value();
  for (const char* const key :
       {"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.alpha",
        "text_encoders.clip_g.transformer.text_model.encoder.layers.0.mlp.fc1."
        "alpha",
        "clip_g.text_model.encoder.layers.0.mlp.fc1.alpha",
        "clip_g.text_projection.alpha"}) {
    const auto match = names.Find(key);
    ASSERT_TRUE(match.has_value()) << key;
    EXPECT_NE(match->module, nullptr) << key;
  }
}

TEST(KeyNamesTest, TheFirstEncodersProjectionIsOfNoUse) {
  for (const char* const alias :
       {"text_encoders.clip_l.transformer.text_projection",
        "text_encoder.text_projection", "clip_l.text_projection"}) {
    EXPECT_TRUE(IsUnusedProjection(alias)) << alias;
  }
  for (const char* const alias :
       {"text_encoders.clip_g.transformer.text_projection", "text_projection",
        "text_encoder.text_model.text_projection", "text_encoder.",
        "text_encoder_2.text_projection", "lora_te_text_projection"}) {
    EXPECT_FALSE(IsUnusedProjection(alias)) << alias;
  }
}

TEST(KeyNamesTest, EveryModuleIsFoundUnderItsFlatAndDottedName) {
  for (const ModuleInfo& module : Sd15().modules) {
    const bool unet = absl::StartsWith(module.name, "unet.");
    const absl::string_view path =
        absl::StripPrefix(module.name, unet ? "unet." : "text_encoder.");
    const std::string flat =
        absl::StrCat(unet ? "lora_unet_" : "lora_te_",
                     absl::StrReplaceAll(path, {{".", "_"}}), ".alpha");
    for (const std::string& key : {flat, module.name + ".lora_A.weight"}) {
      const auto match = Sd15Names().Find(key);
      ASSERT_TRUE(match.has_value()) << key;
      ASSERT_NE(match->module, nullptr) << key;
      EXPECT_EQ(match->module->name, module.name);
    }
  }
}

TEST(KeyNamesTest, ANameForTwoModulesIsAnError) {
  const ModuleTable table{BaseFamily::kOther,
                          2,
                          {{"unet.a.b", ModuleKind::kLinear, {4, 4}, true},
                           {"unet.a_b", ModuleKind::kLinear, {4, 4}, true}}};
  EXPECT_THAT(KeyNames::Create(&table),
              HasReason(ErrorReason::kInternal,
                        AllOf(HasSubstr("\"lora_unet_a_b\""),
                              HasSubstr("unet.a.b"), HasSubstr("unet.a_b"))));
}

TEST(UnetPathsTest, EverySd15ModuleHasAnOriginalPathOfItsOwn) {
  const UnetPaths paths(Sd15());
  std::set<std::string> flat_names;
  int modules = 0;
  for (const ModuleInfo& module : Sd15().modules) {
    absl::string_view path = module.name;
    if (!absl::ConsumePrefix(&path, "unet.")) continue;
    ++modules;
    const auto original = paths.ToOriginal(path);
    ASSERT_TRUE(original.has_value()) << path;
    flat_names.insert(absl::StrReplaceAll(path, {{".", "_"}}));
    flat_names.insert(absl::StrReplaceAll(*original, {{".", "_"}}));
  }
  EXPECT_EQ(modules, 391);
  EXPECT_EQ(flat_names.size(), 782u);
}

TEST(UnetPathsTest, CountsLayersAsTheModelHasThem) {
  const ModuleTable table{BaseFamily::kOther,
                          1,
                          {{"unet.up_blocks.1.attentions.0.proj_in",
                            ModuleKind::kLinear,
                            {4, 4},
                            true}}};
  const UnetPaths paths(table);
  EXPECT_EQ(paths.ToOriginal("down_blocks.1.resnets.0.conv1"),
            "input_blocks.3.0.in_layers.2");
  EXPECT_EQ(paths.ToOriginal("down_blocks.0.downsamplers.0.conv"),
            "input_blocks.2.0.op");
  EXPECT_EQ(paths.ToOriginal("up_blocks.0.upsamplers.0.conv"),
            "output_blocks.1.1.conv");
  EXPECT_EQ(paths.ToOriginal("up_blocks.1.upsamplers.0.conv"),
            "output_blocks.3.2.conv");
}

TEST(UnetPathsTest, PathsThatTheOriginalLacksHaveNone) {
  const UnetPaths paths(Sd15());
  for (const char* path :
       {"", "encoder_hid_proj", "down_blocks", "down_blocks.0",
        "down_blocks.x.y", "down_blocks.0.resnets.0.conv3",
        "mid_block.resnets.conv1", "up_blocks.0.motion_modules.0.proj_in"}) {
    EXPECT_EQ(paths.ToOriginal(path), std::nullopt) << path;
  }
}

}  // namespace
}  // namespace graft

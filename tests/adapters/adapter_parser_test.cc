#include "server/adapters/adapter_parser.h"

#include <limits>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "tests/adapters/parse_bytes.h"
#include "tests/adapters/sd15_modules.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;
using Shape = std::vector<int64_t>;

constexpr char kToQ[] =
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
constexpr char kToQPath[] =
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
constexpr char kProjIn[] = "lora_unet_down_blocks_0_attentions_0_proj_in";
constexpr char kConv1[] = "lora_unet_down_blocks_0_resnets_0_conv1";
constexpr char kFc1[] = "lora_te_text_model_encoder_layers_0_mlp_fc1";

absl::StatusOr<ParsedAdapter> Parse(const AdapterFileBuilder& file,
                                    bool allow_partial = false) {
  return ParseBytes(FakeEngine::TinyModules(), file.Build(),
                    {.allow_partial = allow_partial});
}

// A LoRA on one module, with an alpha of `dtype` if `alpha` is given.
AdapterFileBuilder OnePair(int64_t rank) {
  return AdapterFileBuilder()
      .Add(std::string(kToQ) + ".lora_down.weight", TensorDtype::kF16,
           {rank, 8})
      .Add(std::string(kToQ) + ".lora_up.weight", TensorDtype::kF16, {8, rank});
}

AdapterFileBuilder WithAlpha(double alpha,
                             TensorDtype dtype = TensorDtype::kF32,
                             Shape shape = {}) {
  return OnePair(4).Add(std::string(kToQ) + ".alpha", dtype, std::move(shape),
                        {alpha});
}

double ScaleOf(const AdapterFileBuilder& file) {
  return Parse(file).value().weights.targets.at(0).scale;
}

TEST(AdapterParserTest, ReadsAKohyaLora) {
  const std::string bytes = TinyLoraFile();
  const auto parsed = ParseBytes(FakeEngine::TinyModules(), bytes);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->weights.sha256, Sha256Hex(bytes.data(), bytes.size()));
  EXPECT_NE(parsed->weights.storage, nullptr);
  ASSERT_EQ(parsed->weights.targets.size(), 2u);
  const AdapterTarget& text = parsed->weights.targets[0];
  EXPECT_EQ(text.module, "text_encoder.text_model.encoder.layers.0.mlp.fc1");
  const AdapterTarget& unet = parsed->weights.targets[1];
  EXPECT_EQ(unet.module, kToQPath);
  EXPECT_EQ(unet.algorithm, AdapterAlgorithm::kLora);
  EXPECT_EQ(unet.rank, 2);
  EXPECT_EQ(unet.scale, 1);
  ASSERT_EQ(unet.factors.size(), 2u);
  EXPECT_EQ(unet.factors[0].role, FactorRole::kDown);
  EXPECT_EQ(unet.factors[0].key, std::string(kToQ) + ".lora_down.weight");
  EXPECT_EQ(unet.factors[0].tensor.shape, (Shape{2, 8}));
  EXPECT_EQ(unet.factors[0].tensor.bytes.size(), 64u);
  EXPECT_EQ(unet.factors[1].role, FactorRole::kUp);
  EXPECT_EQ(unet.factors[1].tensor.shape, (Shape{8, 2}));
}

TEST(AdapterParserTest, ReportsWhatItRead) {
  const AdapterReport report =
      ParseBytes(FakeEngine::TinyModules(), TinyLoraFile(7)).value().report;
  EXPECT_EQ(report.format, "kohya");
  EXPECT_THAT(report.algorithms, ElementsAre("lora"));
  EXPECT_EQ(report.max_rank, 2);
  EXPECT_EQ(report.unet_targets, 1);
  EXPECT_EQ(report.text_encoder_targets, 1);
  EXPECT_EQ(report.keys.matched, 6);
  EXPECT_EQ(report.keys.unmatched, 0);
  EXPECT_THAT(report.notes, IsEmpty());
  EXPECT_THAT(report.trigger_words, ElementsAre("tiny-7"));
  EXPECT_THAT(report.metadata, ElementsAre(Pair("ss_output_name", "tiny-7")));
}

TEST(AdapterParserTest, LargeKernelsMakeALocon) {
  const auto parsed = Parse(
      AdapterFileBuilder().AddKohyaPair(kConv1, {4, 4, 3, 3}, {8, 4, 1, 1}));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_THAT(parsed->report.algorithms, ElementsAre("locon"));
  const AdapterTarget& target = parsed->weights.targets[0];
  EXPECT_EQ(target.factors[0].tensor.shape, (Shape{4, 4, 3, 3}));
  EXPECT_EQ(target.factors[1].tensor.shape, (Shape{8, 4}));
}

TEST(AdapterParserTest, UnitKernelsAreLinearEitherWay) {
  const std::pair<Shape, Shape> shapes[] = {
      {{2, 8}, {8, 2}}, {{2, 8, 1, 1}, {8, 2, 1, 1}}, {{2, 8, 1, 1}, {8, 2}}};
  for (const auto& [down, up] : shapes) {
    for (const char* module : {kToQ, kProjIn}) {
      const auto parsed =
          Parse(AdapterFileBuilder().AddKohyaPair(module, down, up));
      ASSERT_THAT(parsed, IsOk());
      EXPECT_THAT(parsed->report.algorithms, ElementsAre("lora"));
      const AdapterTarget& target = parsed->weights.targets[0];
      EXPECT_EQ(target.factors[0].tensor.shape, (Shape{2, 8}));
      EXPECT_EQ(target.factors[1].tensor.shape, (Shape{8, 2}));
    }
  }
}

TEST(AdapterParserTest, TellsTheFormats) {
  const auto format = [](const std::string& module) {
    return Parse(AdapterFileBuilder()
                     .Add(module + ".lora_A.weight", TensorDtype::kF32, {2, 8})
                     .Add(module + ".lora_B.weight", TensorDtype::kF32, {8, 2}))
        .value()
        .report.format;
  };
  EXPECT_EQ(format(kToQ), "kohya");
  EXPECT_EQ(format(kToQPath), "diffusers");
  EXPECT_EQ(format("base_model.model.down_blocks.0.attentions.0.proj_in"),
            "peft");
  const auto mixed =
      Parse(OnePair(2)
                .Add("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight",
                     TensorDtype::kF32, {2, 8})
                .Add("unet.down_blocks.0.attentions.0.proj_in.lora_B.weight",
                     TensorDtype::kF32, {8, 2}));
  EXPECT_EQ(mixed.value().report.format, "mixed");
}

TEST(AdapterParserTest, ScaleIsAlphaOverRankWhateverAlphasType) {
  EXPECT_EQ(ScaleOf(WithAlpha(2)), 0.5);
  EXPECT_EQ(ScaleOf(WithAlpha(2, TensorDtype::kF16)), 0.5);
  EXPECT_EQ(ScaleOf(WithAlpha(2, TensorDtype::kBF16, {1})), 0.5);
  EXPECT_EQ(ScaleOf(WithAlpha(2, TensorDtype::kI64)), 0.5);
  EXPECT_EQ(ScaleOf(WithAlpha(-2)), -0.5);
}

TEST(AdapterParserTest, WithoutAlphaTheScaleIsOne) {
  EXPECT_EQ(ScaleOf(OnePair(4)), 1);
  EXPECT_EQ(ScaleOf(OnePair(4)
                        .Metadata("ss_network_alpha", "1")
                        .Metadata("ss_network_dim", "4")),
            1);
}

TEST(AdapterParserTest, AnAlphaOfZeroMeansOneAndIsNoted) {
  const auto parsed = Parse(WithAlpha(0));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->weights.targets[0].scale, 1);
  EXPECT_THAT(parsed->report.notes,
              ElementsAre(HasSubstr("Alpha is 0 in 1 module(s)")));
}

TEST(AdapterParserTest, TheMetadatasAlphaCountsWhereTheFileHasNone) {
  const char json[] = R"({"unet.lora_alpha": 8})";
  EXPECT_EQ(ScaleOf(OnePair(4).Metadata("lora_adapter_metadata", json)), 2);
  EXPECT_EQ(ScaleOf(WithAlpha(2).Metadata("lora_adapter_metadata", json)), 0.5);
}

TEST(AdapterParserTest, RankAndAlphaAreThoseOfEachModule) {
  const auto parsed = Parse(
      WithAlpha(2)
          .Add(std::string(kProjIn) + ".lora_down.weight", TensorDtype::kF32,
               {1, 8})
          .Add(std::string(kProjIn) + ".lora_up.weight", TensorDtype::kF32,
               {8, 1})
          .Add(std::string(kProjIn) + ".alpha", TensorDtype::kF32, {}, {3}));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->weights.targets[0].rank, 1);
  EXPECT_EQ(parsed->weights.targets[0].scale, 3);
  EXPECT_EQ(parsed->weights.targets[1].rank, 4);
  EXPECT_EQ(parsed->weights.targets[1].scale, 0.5);
  EXPECT_EQ(parsed->report.max_rank, 4);
}

TEST(AdapterParserTest, AnAdapterWithoutEffectIsNoted) {
  const auto parsed = Parse(AdapterFileBuilder()
                                .Add(std::string(kToQ) + ".lora_down.weight",
                                     TensorDtype::kBF16, {2, 8})
                                .Add(std::string(kToQ) + ".lora_up.weight",
                                     TensorDtype::kBF16, {8, 2}, {0}));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_THAT(parsed->report.notes, ElementsAre(HasSubstr("no effect")));
}

TEST(AdapterParserTest, AScaleOfOneBesideAlphaIsHarmless) {
  EXPECT_THAT(Parse(WithAlpha(2).Add(std::string(kToQ) + ".scalar",
                                     TensorDtype::kF32, {}, {1})),
              IsOk());
}

TEST(AdapterParserTest, BundledEmbeddingsAreReported) {
  const auto parsed = Parse(OnePair(2).Add(
      "bundle_emb.my word.string_to_param.*", TensorDtype::kF32, {1, 8}));
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->report.keys.not_applied, 1);
  EXPECT_THAT(parsed->report.keys.not_applied_keys,
              ElementsAre("bundle_emb.my word.string_to_param.*"));
  EXPECT_THAT(parsed->report.notes, ElementsAre(HasSubstr("not applied")));
}

// As ComfyUI extracts an adapter of a text encoder: with its embeddings and the
// projection that it keeps there.
constexpr char kComfyText[] = "text_encoders.clip_l.transformer.";

AdapterFileBuilder WithProjection(std::vector<double> down,
                                  std::vector<double> up) {
  const std::string projection = std::string(kComfyText) + "text_projection";
  return OnePair(2)
      .Add(projection + ".lora_down.weight", TensorDtype::kF16, {2, 8},
           std::move(down))
      .Add(projection + ".lora_up.weight", TensorDtype::kF16, {8, 2},
           std::move(up));
}

TEST(AdapterParserTest, AnUnusedProjectionMayBeThereIfItDoesNotChange) {
  for (const auto& file : {WithProjection({1}, {0}), WithProjection({0}, {1}),
                           WithProjection({0}, {0})}) {
    const auto parsed = Parse(file);
    ASSERT_THAT(parsed, IsOk());
    EXPECT_EQ(parsed->report.keys.matched, 2);
    EXPECT_EQ(parsed->report.keys.unmatched, 0);
    EXPECT_EQ(parsed->report.keys.not_applied, 2);
    EXPECT_THAT(parsed->report.notes,
                ElementsAre(AllOf(HasSubstr("2 tensor(s)"),
                                  HasSubstr("their change is zero"))));
  }
  const std::string diff = std::string(kComfyText) + "text_projection.diff";
  EXPECT_THAT(Parse(OnePair(2).Add(diff, TensorDtype::kF16, {8, 8}, {0})),
              IsOk());
}

TEST(AdapterParserTest, AChangeOfAnUnusedProjectionIsRefused) {
  const std::string projection = std::string(kComfyText) + "text_projection";
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const AdapterFileBuilder files[] = {
      WithProjection({1}, {1}),
      WithProjection({0}, {nan}),
      WithProjection({0}, {0}).Remove(projection + ".lora_up.weight"),
      // The same part again, or another algorithm beside it.
      WithProjection({1}, {0}).Add(projection + ".lora_B.weight",
                                   TensorDtype::kF16, {8, 2}),
      WithProjection({1}, {1}).Add(projection + ".diff", TensorDtype::kF16,
                                   {8, 8}, {0}),
      OnePair(2).Add(projection + ".diff", TensorDtype::kF16, {8, 8}),
      OnePair(2).Add(projection + ".oft_blocks", TensorDtype::kF16, {2, 4, 4},
                     {0}),
      OnePair(2).Add(projection + ".diff", TensorDtype::kF8E4M3, {8, 8}, {0}),
  };
  for (const AdapterFileBuilder& file : files) {
    EXPECT_THAT(Parse(file), HasReason(ErrorReason::kAdapterKeysUnmatched,
                                       HasSubstr("text_projection")));
  }
}

TEST(AdapterParserTest, AnUnusedProjectionAloneIsNoAdapter) {
  EXPECT_THAT(Parse(WithProjection({0}, {0})
                        .Remove(std::string(kToQ) + ".lora_down.weight")
                        .Remove(std::string(kToQ) + ".lora_up.weight")),
              HasReason(ErrorReason::kAdapterKeysUnmatched,
                        HasSubstr("no tensor in it changes the base")));
}

TEST(AdapterParserTest, ALoraMayChangeAnEmbedding) {
  const std::string embedding =
      std::string(kComfyText) + "text_model.embeddings.token_embedding";
  const auto file = [&] {
    return AdapterFileBuilder().AddKohyaPair(embedding, {2, 768}, {49408, 2});
  };
  const auto parsed = ParseBytes(Sd15Modules(), file().Build());
  ASSERT_THAT(parsed, IsOk());
  const AdapterTarget& target = parsed->weights.targets.at(0);
  EXPECT_EQ(target.module,
            "text_encoder.text_model.embeddings.token_embedding");
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kLora);
  EXPECT_EQ(target.Find(FactorRole::kDown)->tensor.shape, (Shape{2, 768}));
  EXPECT_EQ(target.Find(FactorRole::kUp)->tensor.shape, (Shape{49408, 2}));
  // DoRA of one is another formula.
  EXPECT_THAT(ParseBytes(Sd15Modules(), file()
                                            .Add(embedding + ".dora_scale",
                                                 TensorDtype::kF32, {49408, 1})
                                            .Build()),
              HasReason(ErrorReason::kAdapterKindUnsupported,
                        HasSubstr("neither a linear layer")));
}

TEST(AdapterParserTest, UnmatchedKeysAreCountedAndNamed) {
  auto file = OnePair(2);
  for (const char* name : {"a", "b", "c", "d", "e", "f", "g"}) {
    file.Add(std::string("lora_unet_") + name + ".alpha", TensorDtype::kF32,
             {});
  }
  const auto parsed = Parse(file);
  EXPECT_THAT(parsed,
              HasReason(ErrorReason::kAdapterKeysUnmatched,
                        AllOf(HasSubstr("file.safetensors: 7 of 9 keys"),
                              HasSubstr("lora_unet_a.alpha"),
                              HasSubstr("allow a partial load"),
                              Not(HasSubstr("lora_unet_f.alpha")))));
  EXPECT_THAT(
      GetErrorMetadata(parsed.status()),
      AllOf(Contains(Pair("unmatched", "7")), Contains(Pair("total", "9"))));
}

TEST(AdapterParserTest, APartialLoadReportsWhatItLeavesOut) {
  const auto parsed =
      Parse(OnePair(2)
                .AddKohyaPair("lora_unet_nowhere", {2, 8}, {8, 2})
                .AddKohyaPair(kFc1, {2, 9}, {16, 2}),
            /*allow_partial=*/true);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->weights.targets.size(), 1u);
  EXPECT_EQ(parsed->report.keys.matched, 2);
  EXPECT_EQ(parsed->report.keys.unmatched, 6);
  EXPECT_THAT(parsed->report.keys.unmatched_keys,
              AllOf(Contains("lora_unet_nowhere.alpha"),
                    Contains(std::string(kFc1) + ".lora_up.weight")));
  EXPECT_THAT(parsed->report.notes, ElementsAre(HasSubstr("6 tensor(s)")));
}

TEST(AdapterParserTest, APartialLoadOfNothingIsRefused) {
  EXPECT_THAT(Parse(AdapterFileBuilder().AddKohyaPair("lora_unet_nowhere",
                                                      {2, 8}, {8, 2}),
                    true),
              HasReason(ErrorReason::kAdapterKeysUnmatched,
                        Not(HasSubstr("allow a partial load"))));
  EXPECT_THAT(
      Parse(AdapterFileBuilder().AddKohyaPair(kToQ, {2, 9}, {8, 2}), true),
      HasReason(ErrorReason::kAdapterBaseMismatch));
  EXPECT_THAT(Parse(AdapterFileBuilder(), true),
              HasReason(ErrorReason::kAdapterKeysUnmatched));
}

TEST(AdapterParserTest, KeysAreEscapedWhereTheyAreShown) {
  // PEFT's name for the adapter may be any text.
  const std::string end = ".lora_A.\x1b[31m" + std::string(9000, 'x');
  auto file = AdapterFileBuilder().Add(std::string(kToQPath) + ".lora_B.weight",
                                       TensorDtype::kF32, {8, 2});
  file.Add(kToQPath + end + ".weight", TensorDtype::kF32, {2, 8});
  const auto parsed = Parse(file);
  ASSERT_THAT(parsed, IsOk());
  const std::string& key = parsed->weights.targets[0].factors[0].key;
  EXPECT_THAT(key, AllOf(HasSubstr("\\x1b[31mxxx"), HasSubstr("...")));
  EXPECT_LT(key.size(), 300u);
}

TEST(AdapterParserTest, ReportsAtMost32Names) {
  auto file = OnePair(2);
  for (int i = 0; i < 100; ++i) {
    file.Add("k" + std::to_string(i), TensorDtype::kF32, {});
  }
  const auto parsed = Parse(file, true);
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->report.keys.unmatched, 100);
  EXPECT_EQ(parsed->report.keys.unmatched_keys.size(), 32u);
}

TEST(AdapterParserTest, AnUnknownEndOfAKnownModuleIsNamed) {
  struct Case {
    std::string key;
    const char* end;
  };
  const Case cases[] = {
      {std::string(kToQ) + ".oft_R.weight", "\".oft_R.weight\""},
      {std::string(kToQPath) + ".oft_R.weight", "\".oft_R.weight\""},
      {"base_model.model.down_blocks.0.attentions.0.proj_in.lora_embedding_A",
       "\".lora_embedding_A\""},
      {std::string("text_encoder.text_model.encoder.layers.0.mlp.fc1.") +
           std::string(99999, '.'),
       "\"...."},
  };
  for (const Case& c : cases) {
    const auto alone =
        Parse(AdapterFileBuilder().Add(c.key, TensorDtype::kF32, {2, 4}));
    EXPECT_THAT(alone, HasReason(ErrorReason::kAdapterKeysUnmatched,
                                 AllOf(HasSubstr("1 of 1 keys"),
                                       HasSubstr("ends in "), HasSubstr(c.end),
                                       HasSubstr(", which is not supported"),
                                       Not(HasSubstr("fit no module")),
                                       Not(HasSubstr("for this base")))))
        << c.key.substr(0, 80);
  }
  // Beside keys of no module.
  auto file = OnePair(2);
  file.Add(cases[0].key, TensorDtype::kF32, {2, 4})
      .Add("lora_unet_nowhere.alpha", TensorDtype::kF32, {});
  EXPECT_THAT(Parse(file),
              HasReason(ErrorReason::kAdapterKeysUnmatched,
                        AllOf(HasSubstr("2 of 4 keys fit no module"),
                              HasSubstr("ends in \".oft_R.weight\""),
                              HasSubstr("allow a partial load"))));
}

TEST(AdapterParserTest, BundledEmbeddingsDoNotSpoilTheGuess) {
  for (const char* const key :
       {"bundle_emb.word.emb_params", "bundle_emb.word.string_to_param.*",
        "bundle_emb.motion_modules.clip_g", "bundle_emb.image_proj.clip_l"}) {
    const auto parsed = ParseBytes(
        Sd15Modules(),
        AdapterFileBuilder()
            .Add(key, TensorDtype::kF32, {1, 8})
            .AddKohyaPair("lora_te2_text_model_encoder_layers_0_mlp_fc1",
                          {4, 1280}, {5120, 4})
            .Build());
    EXPECT_THAT(parsed, HasReason(ErrorReason::kAdapterBaseMismatch,
                                  AllOf(HasSubstr("made for SDXL"),
                                        HasSubstr("3 of 4 keys"))))
        << key;
  }
}

TEST(AdapterParserTest, AShapeThatDoesNotFitIsTheWrongBase) {
  const auto parsed = ParseBytes(
      Sd15Modules(),
      AdapterFileBuilder()
          .AddKohyaPair("lora_unet_down_blocks_1_attentions_0_transformer_"
                        "blocks_0_attn2_to_k",
                        {4, 2048}, {640, 4})
          .Metadata("ss_base_model_version", "sdxl_base_v1-0")
          .Build());
  EXPECT_THAT(
      parsed,
      HasReason(
          ErrorReason::kAdapterBaseMismatch,
          AllOf(HasSubstr("unet.down_blocks.1.attentions.0.transformer_blocks."
                          "0.attn2.to_k"),
                HasSubstr("[rank, 768]"), HasSubstr("[4, 2048]"),
                HasSubstr("this adapter was made for SDXL; this server "
                          "serves SD 1.x"),
                HasSubstr("sdxl_base_v1-0"))));
}

struct Origin {
  const char* key;
  ErrorReason reason;
  const char* guess;
};

void PrintTo(const Origin& origin, std::ostream* os) { *os << origin.key; }

class OriginGuessTest : public testing::TestWithParam<Origin> {};

TEST_P(OriginGuessTest, IsInTheMessage) {
  const auto parsed = ParseBytes(
      Sd15Modules(), AdapterFileBuilder()
                         .Add(GetParam().key, TensorDtype::kF32, {2, 4})
                         .Build());
  EXPECT_THAT(parsed,
              HasReason(GetParam().reason, HasSubstr(GetParam().guess)));
}

INSTANTIATE_TEST_SUITE_P(
    Files, OriginGuessTest,
    testing::Values(
        Origin{"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
               ErrorReason::kAdapterBaseMismatch, "Flux"},
        Origin{"lora_te3_x.lora_down.weight", ErrorReason::kAdapterBaseMismatch,
               "SD 3"},
        Origin{"lora_prior_unet_x.alpha", ErrorReason::kAdapterBaseMismatch,
               "Stable Cascade"},
        Origin{"lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q."
               "lora_up.weight",
               ErrorReason::kAdapterBaseMismatch, "SDXL"},
        Origin{"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha",
               ErrorReason::kAdapterBaseMismatch, "SDXL"},
        Origin{"clip_g.text_model.encoder.layers.0.mlp.fc1.alpha",
               ErrorReason::kAdapterBaseMismatch, "SDXL"},
        Origin{"first_stage_model.decoder.conv_in.weight",
               ErrorReason::kAdapterKeysUnmatched, "full checkpoint"},
        Origin{"emb_params", ErrorReason::kAdapterKeysUnmatched,
               "textual inversion"},
        Origin{"clip_l", ErrorReason::kAdapterKeysUnmatched,
               "textual inversion"},
        Origin{"down_blocks.0.motion_modules.0.proj_in.weight",
               ErrorReason::kAdapterKeysUnmatched, "AnimateDiff"},
        Origin{"lora_controlnet", ErrorReason::kAdapterKeysUnmatched,
               "ControlNet"},
        Origin{"image_proj.proj.weight", ErrorReason::kAdapterKeysUnmatched,
               "IP-Adapter"},
        Origin{"unet:0:up", ErrorReason::kAdapterKeysUnmatched,
               "earliest layout"}));

TEST(AdapterParserTest, AllOfSd15CanBeAdaptedAtOnce) {
  const ModuleTable modules = Sd15Modules();
  AdapterFileBuilder file;
  size_t targets = 0;
  for (const ModuleInfo& module : modules.modules) {
    if (module.kind != ModuleKind::kLinear &&
        module.kind != ModuleKind::kConv2d) {
      continue;
    }
    Shape down = module.weight_shape;
    down[0] = 1;
    file.Add(module.name + ".lora_A.weight", TensorDtype::kF16, down);
    file.Add(module.name + ".lora_B.weight", TensorDtype::kF16,
             {module.weight_shape[0], 1});
    ++targets;
  }
  const auto parsed = ParseBytes(modules, file.Build());
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(targets, 192u + 86u + 4u + 72u);
  EXPECT_EQ(parsed->weights.targets.size(), targets);
  EXPECT_EQ(parsed->report.text_encoder_targets, 72);
}

}  // namespace
}  // namespace graft

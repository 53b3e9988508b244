// Each algorithm's files, from parsing to the targets' roles and shapes.

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_parser.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "tests/adapters/parse_bytes.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/random_adapter_file.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using Kind = RandomAdapterKind;
using Shape = std::vector<int64_t>;

constexpr char kConv1[] = "unet.down_blocks.0.resnets.0.conv1";

absl::StatusOr<ParsedAdapter> ParseRandom(Kind kind) {
  const ModuleTable modules = FakeEngine::TinyModules();
  return ParseBytes(modules,
                    RandomAdapterFile(kind, modules.modules, /*rank=*/2,
                                      /*seed=*/1, TensorDtype::kF32));
}

// The target for conv1 ([8, 4, 3, 3]) of a file with all modules.
AdapterTarget ConvTarget(Kind kind) {
  const ParsedAdapter parsed = ParseRandom(kind).value();
  for (const AdapterTarget& target : parsed.weights.targets) {
    if (target.module == kConv1) return target;
  }
  ADD_FAILURE() << "no target for " << kConv1;
  return {};
}

Shape ShapeOf(const AdapterTarget& target, FactorRole role) {
  const AdapterFactor* const factor = target.Find(role);
  return factor == nullptr ? Shape{} : factor->tensor.shape;
}

class RandomAdapterTest : public testing::TestWithParam<Kind> {};

TEST_P(RandomAdapterTest, IsParsedWithoutRest) {
  const auto parsed = ParseRandom(GetParam());
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->report.keys.unmatched, 0);
  EXPECT_FALSE(parsed->weights.targets.empty());
  EXPECT_THAT(parsed->report.notes, testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(All, RandomAdapterTest,
                         testing::ValuesIn(kAllRandomAdapterKinds),
                         [](const testing::TestParamInfo<Kind>& info) {
                           return std::string(
                               RandomAdapterKindName(info.param));
                         });

TEST(AlgorithmsTest, LokrOfAConvolution) {
  const AdapterTarget target = ConvTarget(Kind::kLokr);
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kLokr);
  EXPECT_EQ(target.scale, 0.5);
  EXPECT_EQ(ShapeOf(target, FactorRole::kLokrW1), (Shape{4, 4}));
  EXPECT_EQ(ShapeOf(target, FactorRole::kLokrW2A), (Shape{2, 2}));
  EXPECT_EQ(ShapeOf(target, FactorRole::kLokrW2B), (Shape{2, 9}));
}

TEST(AlgorithmsTest, LokrOfWholeSidesHasAScaleOfOne) {
  EXPECT_EQ(ConvTarget(Kind::kLokrWhole).scale, 1);
  EXPECT_EQ(ShapeOf(ConvTarget(Kind::kLokrWhole), FactorRole::kLokrW2),
            (Shape{2, 1, 3, 3}));
}

// One group for conv1 ([8, 4, 3, 3]) in ComfyUI's names.
AdapterFileBuilder OnConv1(
    const std::vector<std::pair<std::string, Shape>>& parts) {
  AdapterFileBuilder file;
  for (const auto& [part, shape] : parts) {
    file.Add("diffusion_model.input_blocks.1.0.in_layers.2." + part,
             TensorDtype::kF32, shape);
  }
  return file;
}

absl::StatusOr<AdapterTarget> ParseOnConv1(const AdapterFileBuilder& file) {
  GRAFT_ASSIGN_OR_RETURN(const ParsedAdapter parsed,
                         ParseBytes(FakeEngine::TinyModules(), file.Build()));
  return parsed.weights.targets.at(0);
}

TEST(AlgorithmsTest, LohasSidesMayHaveTheKernelsShape) {
  for (const Shape& b : {Shape{2, 36}, Shape{2, 4, 3, 3}}) {
    for (const Shape& a : {Shape{8, 2}, Shape{8, 2, 1, 1}}) {
      const auto target = ParseOnConv1(OnConv1({{"hada_w1_a", a},
                                                {"hada_w1_b", b},
                                                {"hada_w2_a", a},
                                                {"hada_w2_b", b}}));
      ASSERT_THAT(target, IsOk());
      EXPECT_EQ(ShapeOf(*target, FactorRole::kHadaW1A), (Shape{8, 2}));
      EXPECT_EQ(ShapeOf(*target, FactorRole::kHadaW1B), (Shape{2, 36}));
      EXPECT_EQ(ShapeOf(*target, FactorRole::kHadaW2B), (Shape{2, 36}));
    }
  }
  for (const Shape& b : {Shape{2, 9, 2, 2}, Shape{2, 4, 3, 4}, Shape{2, 35}}) {
    EXPECT_THAT(ParseOnConv1(OnConv1({{"hada_w1_a", {8, 2}},
                                      {"hada_w1_b", b},
                                      {"hada_w2_a", {8, 2}},
                                      {"hada_w2_b", b}})),
                HasReason(ErrorReason::kAdapterBaseMismatch));
  }
}

TEST(AlgorithmsTest, ALoconsDownMayBeFlat) {
  const auto target = ParseOnConv1(
      OnConv1({{"lora_down.weight", {2, 36}}, {"lora_up.weight", {8, 2}}}));
  ASSERT_THAT(target, IsOk());
  EXPECT_EQ(target->rank, 2);
  EXPECT_EQ(ShapeOf(*target, FactorRole::kDown), (Shape{2, 4, 3, 3}));
  EXPECT_THAT(ParseOnConv1(OnConv1(
                  {{"lora_down.weight", {2, 35}}, {"lora_up.weight", {8, 2}}})),
              HasReason(ErrorReason::kAdapterBaseMismatch,
                        testing::HasSubstr("[rank, 36]")));
  // With a core the kernel is there.
  EXPECT_THAT(ParseOnConv1(OnConv1({{"lora_down.weight", {2, 36}},
                                    {"lora_mid.weight", {2, 2, 3, 3}},
                                    {"lora_up.weight", {8, 2}}})),
              HasReason(ErrorReason::kAdapterBaseMismatch));
}

// 6 divides the 36 columns, but not the 4 channels.
TEST(AlgorithmsTest, LokrMayFactorChannelsAndKernelTogether) {
  const auto whole =
      ParseOnConv1(OnConv1({{"lokr_w1", {2, 6}}, {"lokr_w2", {4, 6}}}));
  ASSERT_THAT(whole, IsOk());
  EXPECT_EQ(whole->scale, 1);
  EXPECT_EQ(ShapeOf(*whole, FactorRole::kLokrW1), (Shape{2, 6}));
  EXPECT_EQ(ShapeOf(*whole, FactorRole::kLokrW2), (Shape{4, 6}));
  const auto pair = ParseOnConv1(OnConv1(
      {{"lokr_w1", {2, 6}}, {"lokr_w2_a", {4, 3}}, {"lokr_w2_b", {3, 6}}}));
  ASSERT_THAT(pair, IsOk());
  EXPECT_EQ(ShapeOf(*pair, FactorRole::kLokrW2B), (Shape{3, 6}));
  for (const auto& [w1, w2] :
       {std::pair<Shape, Shape>{{2, 6}, {4, 2, 3, 3}},  // not by channels
        {{2, 6}, {4, 7}},
        {{2, 5}, {4, 7}}}) {
    EXPECT_THAT(ParseOnConv1(OnConv1({{"lokr_w1", w1}, {"lokr_w2", w2}})),
                HasReason(ErrorReason::kAdapterBaseMismatch));
  }
  EXPECT_THAT(ParseOnConv1(OnConv1({{"lokr_w1", {2, 6}},
                                    {"lokr_w2_a", {3, 4}},
                                    {"lokr_w2_b", {3, 6}},
                                    {"lokr_t2", {3, 3, 3, 3}}})),
              HasReason(ErrorReason::kAdapterBaseMismatch,
                        testing::HasSubstr("a divisor of 4 as columns")));
}

TEST(AlgorithmsTest, LohaWithCoresIsTransposed) {
  const AdapterTarget target = ConvTarget(Kind::kLohaTucker);
  EXPECT_EQ(target.rank, 2);
  EXPECT_EQ(ShapeOf(target, FactorRole::kHadaW1A), (Shape{2, 8}));
  EXPECT_EQ(ShapeOf(target, FactorRole::kHadaT2), (Shape{2, 2, 3, 3}));
}

TEST(AlgorithmsTest, DoraTellsTheAxis) {
  const AdapterTarget output = ConvTarget(Kind::kDora);
  EXPECT_EQ(output.magnitude_axis, WeightAxis::kOutput);
  EXPECT_EQ(ShapeOf(output, FactorRole::kMagnitude), (Shape{8}));
  const AdapterTarget input = ConvTarget(Kind::kDoraInput);
  EXPECT_EQ(input.magnitude_axis, WeightAxis::kInput);
  EXPECT_EQ(ShapeOf(input, FactorRole::kMagnitude), (Shape{4}));
  EXPECT_THAT(ParseRandom(Kind::kDoraLoha)->report.algorithms,
              ElementsAre("dora", "loha"));
}

TEST(AlgorithmsTest, Ia3TellsTheAxis) {
  EXPECT_TRUE(ConvTarget(Kind::kIa3Input).on_input);
  EXPECT_EQ(ShapeOf(ConvTarget(Kind::kIa3), FactorRole::kIa3), (Shape{8}));
}

TEST(AlgorithmsTest, Ia3OnTheInputHasTheInputsLength) {
  const AdapterTarget target = ConvTarget(Kind::kIa3Input);
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kIa3);
  EXPECT_EQ(ShapeOf(target, FactorRole::kIa3), (Shape{4}));
  EXPECT_FALSE(ConvTarget(Kind::kIa3).on_input);
}

TEST(AlgorithmsTest, GloraHasFourFactors) {
  const AdapterTarget target = ConvTarget(Kind::kGlora);
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kGlora);
  EXPECT_EQ(target.rank, 2);
  ASSERT_EQ(target.factors.size(), 4u);
  EXPECT_EQ(ShapeOf(target, FactorRole::kGloraA1), (Shape{4, 2}));
  EXPECT_EQ(ShapeOf(target, FactorRole::kGloraA2), (Shape{2, 4}));
  EXPECT_EQ(ShapeOf(target, FactorRole::kGloraB1), (Shape{8, 2}));
  EXPECT_EQ(ShapeOf(target, FactorRole::kGloraB2), (Shape{2, 4, 3, 3}));
}

TEST(AlgorithmsTest, ADifferenceHasTheParametersShape) {
  const ParsedAdapter parsed = ParseRandom(Kind::kDiff).value();
  const AdapterTarget target = ConvTarget(Kind::kDiff);
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kDiff);
  EXPECT_EQ(target.parameter, ParameterKind::kWeight);
  EXPECT_EQ(target.scale, 1);
  EXPECT_EQ(ShapeOf(target, FactorRole::kDiff), (Shape{8, 4, 3, 3}));
  // Weight and bias of all modules but to_q, which has none.
  EXPECT_EQ(parsed.weights.targets.size(), 7u + 6u);
}

TEST(AlgorithmsTest, ANormHasWeightAndBias) {
  const ParsedAdapter parsed = ParseRandom(Kind::kNorm).value();
  ASSERT_EQ(parsed.weights.targets.size(), 2u);
  EXPECT_THAT(parsed.report.algorithms, ElementsAre("norm"));
  for (const AdapterTarget& target : parsed.weights.targets) {
    EXPECT_EQ(target.module, "unet.down_blocks.0.resnets.0.norm1");
    EXPECT_EQ(target.algorithm, AdapterAlgorithm::kDiff);
    EXPECT_EQ(ShapeOf(target, FactorRole::kDiff), (Shape{4}));
  }
  EXPECT_EQ(parsed.weights.targets[0].parameter, ParameterKind::kWeight);
  EXPECT_EQ(parsed.weights.targets[1].parameter, ParameterKind::kBias);
}

TEST(AlgorithmsTest, BoftHasStagesOfBlocks) {
  const AdapterTarget target = ConvTarget(Kind::kBoft);
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kBoft);
  EXPECT_EQ(target.constraint, 0);
  const Shape blocks = ShapeOf(target, FactorRole::kOftBlocks);
  ASSERT_EQ(blocks.size(), 4u);
  EXPECT_EQ(blocks[1] * blocks[2], 8);
  EXPECT_EQ(blocks[2], blocks[3]);
}

TEST(AlgorithmsTest, OftHasBlocksThatTileTheRows) {
  const Shape blocks = ShapeOf(ConvTarget(Kind::kOft), FactorRole::kOftBlocks);
  ASSERT_EQ(blocks.size(), 3u);
  EXPECT_EQ(blocks[0] * blocks[1], 8);
  EXPECT_EQ(blocks[1], blocks[2]);
}

TEST(AlgorithmsTest, OftAndBoftHaveBlocksOfAtMost2048Rows) {
  constexpr char kToQ[] =
      "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
  for (const int64_t rows : {2048, 2050}) {
    ModuleTable modules = FakeEngine::TinyModules();
    for (ModuleInfo& module : modules.modules) {
      if (module.name == kToQ) module.weight_shape = {rows, 8};
    }
    for (const Shape& shape : {Shape{1, rows, rows}, Shape{1, 1, rows, rows}}) {
      const std::string file =
          AdapterFileBuilder()
              .Add(
                  "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_"
                  "attn1_to_q.oft_blocks",
                  TensorDtype::kF16, shape)
              .Build();
      if (rows == 2048) {
        EXPECT_THAT(ParseBytes(modules, file), IsOk());
      } else {
        EXPECT_THAT(ParseBytes(modules, file),
                    HasReason(ErrorReason::kAdapterKindUnsupported,
                              testing::HasSubstr("blocks of 2050 rows")));
      }
    }
  }
}

TEST(AlgorithmsTest, OftsAlphaIsAConstraint) {
  const AdapterTarget target = ConvTarget(Kind::kOftConstrained);
  EXPECT_FLOAT_EQ(target.constraint, 0.008);
  EXPECT_EQ(target.scale, 1);
  EXPECT_EQ(ShapeOf(target, FactorRole::kRescale), (Shape{8}));
}

// Elsewhere it is multiplied by the rows.
TEST(AlgorithmsTest, InComfyUisFilesOftsAlphaIsTheLimitItself) {
  const auto target =
      ParseOnConv1(OnConv1({{"oft_blocks", {2, 4, 4}}, {"alpha", {}}}));
  ASSERT_THAT(target, IsOk());
  EXPECT_EQ(target->constraint, 0.5);
  // It does not train BOFT.
  const auto boft =
      ParseOnConv1(OnConv1({{"oft_blocks", {1, 2, 4, 4}}, {"alpha", {}}}));
  ASSERT_THAT(boft, IsOk());
  EXPECT_EQ(boft->constraint, 0.5 * 8);
}

TEST(AlgorithmsTest, ABiasIsASecondTarget) {
  const ParsedAdapter parsed = ParseRandom(Kind::kLoraBias).value();
  const AdapterTarget& weight = parsed.weights.targets[0];
  const AdapterTarget& bias = parsed.weights.targets[1];
  EXPECT_EQ(weight.parameter, ParameterKind::kWeight);
  EXPECT_EQ(bias.module, weight.module);
  EXPECT_EQ(bias.parameter, ParameterKind::kBias);
  EXPECT_EQ(bias.algorithm, AdapterAlgorithm::kDiff);
  EXPECT_EQ(bias.scale, 0.5);
}

}  // namespace
}  // namespace graft

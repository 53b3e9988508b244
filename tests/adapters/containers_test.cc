// One LoHa in each of the containers that files come in: the suffixes are the
// same everywhere, the modules' names differ.

#include <ostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_parser.h"
#include "tests/adapters/parse_bytes.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

struct Container {
  const char* name;
  const char* module;  // conv1 ([8, 4, 3, 3]) as its files call it
};

void PrintTo(const Container& container, std::ostream* os) {
  *os << container.name;
}

class ContainerTest : public testing::TestWithParam<Container> {};

TEST_P(ContainerTest, HoldsALoha) {
  const std::string module = GetParam().module;
  AdapterFileBuilder file;
  for (const char* side : {"1", "2"}) {
    const std::string key = absl::StrCat(module, ".hada_w", side);
    file.Add(key + "_a", TensorDtype::kF32, {8, 2})
        .Add(key + "_b", TensorDtype::kF32, {2, 36});
  }
  file.Add(module + ".alpha", TensorDtype::kF32, {}, {1});
  const auto parsed = ParseBytes(FakeEngine::TinyModules(), file.Build());
  ASSERT_THAT(parsed, IsOk());
  ASSERT_EQ(parsed->weights.targets.size(), 1u);
  const AdapterTarget& target = parsed->weights.targets[0];
  EXPECT_EQ(target.module, "unet.down_blocks.0.resnets.0.conv1");
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kLoha);
  EXPECT_EQ(target.scale, 0.5);
  EXPECT_EQ(target.factors.size(), 4u);
}

INSTANTIATE_TEST_SUITE_P(
    All, ContainerTest,
    testing::Values(
        Container{"Kohya", "lora_unet_down_blocks_0_resnets_0_conv1"},
        Container{"KohyaOriginal", "lora_unet_input_blocks_1_0_in_layers_2"},
        Container{"Lycoris", "lycoris_down_blocks_0_resnets_0_conv1"},
        Container{"LycorisOriginal", "lycoris_input_blocks_1_0_in_layers_2"},
        Container{"Diffusers", "unet.down_blocks.0.resnets.0.conv1"},
        Container{"DiffusersBare", "down_blocks.0.resnets.0.conv1"},
        Container{"Peft", "base_model.model.down_blocks.0.resnets.0.conv1"},
        Container{"ComfyUi", "diffusion_model.input_blocks.1.0.in_layers.2"}),
    [](const testing::TestParamInfo<Container>& info) {
      return std::string(info.param.name);
    });

TEST(ContainersTest, ALoraWithLargeKernelsIsALocon) {
  const auto parsed = ParseBytes(
      FakeEngine::TinyModules(),
      AdapterFileBuilder()
          .AddKohyaPair("lora_unet_down_blocks_0_resnets_0_conv1", {2, 4, 3, 3},
                        {8, 2, 1, 1})
          .AddKohyaPair("lora_unet_down_blocks_0_attentions_0_proj_in",
                        {2, 8, 1, 1}, {8, 2, 1, 1})
          .Build());
  ASSERT_THAT(parsed, IsOk());
  EXPECT_THAT(parsed->report.algorithms, testing::ElementsAre("locon"));
}

}  // namespace
}  // namespace graft

#include "server/adapters/adapter_config.h"

#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/adapters/sd15_modules.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kUnet[] = "unet.down_blocks.0.attentions.0.proj_in";
constexpr char kText[] =
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj";

absl::StatusOr<AdapterConfig> Parse(const std::string& json) {
  return AdapterConfig::Parse({{"lora_adapter_metadata", json}});
}

std::optional<double> Scale(const std::string& json, const char* module,
                            int rank) {
  return Parse(json).value().Scale(module, rank);
}

TEST(AdapterConfigTest, SaysNothingWhereThereIsNone) {
  EXPECT_EQ(AdapterConfig::Parse({}).value().Scale(kUnet, 4), std::nullopt);
  EXPECT_EQ(Scale("{}", kUnet, 4), std::nullopt);
}

TEST(AdapterConfigTest, AlphaIsTheComponents) {
  const char json[] =
      R"({"unet.lora_alpha": 8, "unet.r": 4, "text_encoder.lora_alpha": 2})";
  EXPECT_EQ(Scale(json, kUnet, 4), 2.0);
  EXPECT_EQ(Scale(json, kText, 4), 0.5);
  EXPECT_EQ(Scale(R"({"unet.lora_alpha": 8})", kText, 4), std::nullopt);
}

TEST(AdapterConfigTest, ABareModelsFileHasNoComponents) {
  EXPECT_EQ(Scale(R"({"lora_alpha": 8})", kUnet, 4), 2.0);
}

TEST(AdapterConfigTest, RankStabilisedDividesByTheRoot) {
  EXPECT_EQ(
      Scale(R"({"unet.lora_alpha": 8, "unet.use_rslora": true})", kUnet, 16),
      2.0);
}

TEST(AdapterConfigTest, ASwitchOfNullIsOff) {
  EXPECT_EQ(
      Scale(R"({"unet.lora_alpha": 8, "unet.use_rslora": null})", kUnet, 16),
      0.5);
}

TEST(AdapterConfigTest, DoraAndBiasAreTheComponents) {
  const AdapterConfig config =
      Parse(R"({"unet.use_dora": true, "text_encoder.lora_bias": true})")
          .value();
  EXPECT_TRUE(config.UsesDora(kUnet));
  EXPECT_FALSE(config.UsesDora(kText));
  EXPECT_FALSE(config.UsesBias(kUnet));
  EXPECT_TRUE(config.UsesBias(kText));
  EXPECT_FALSE(AdapterConfig::Parse({}).value().UsesDora(kUnet));
}

TEST(AdapterConfigTest, PatternsMatchTheEndOfAPathFromADotOn) {
  const std::string pattern = R"({"unet.lora_alpha": 4, "unet.alpha_pattern":)";
  EXPECT_EQ(Scale(pattern + R"({"proj_in": 8}})", kUnet, 4), 2.0);
  EXPECT_EQ(Scale(pattern + R"({"attentions.0.proj_in": 8}})", kUnet, 4), 2.0);
  EXPECT_EQ(Scale(pattern + R"({"down_.*": 8}})", kUnet, 4), 2.0);
  EXPECT_EQ(Scale(pattern + R"({"roj_in": 8}})", kUnet, 4), 1.0);
  EXPECT_EQ(Scale(pattern + R"({"attentions": 8}})", kUnet, 4), 1.0);
}

TEST(AdapterConfigTest, TheFirstPatternCountsInTheFilesOrder) {
  EXPECT_EQ(Scale(R"({"unet.alpha_pattern": {"z|proj_in": 8, "proj_in": 4}})",
                  kUnet, 4),
            2.0);
}

TEST(AdapterConfigTest, TextPathsMatchWithAndWithoutTheTopLevel) {
  const std::string head = R"({"text_encoder.alpha_pattern": )";
  EXPECT_EQ(Scale(head + R"({"^text_model.encoder.layers.0.*": 8}})", kText, 4),
            2.0);
  EXPECT_EQ(Scale(head + R"({"encoder.layers.0.*": 8}})", kText, 4), 2.0);
}

TEST(AdapterConfigTest, AnAlphaOfZeroSaysNothing) {
  EXPECT_EQ(Scale(R"({"unet.lora_alpha": 0})", kUnet, 4), std::nullopt);
}

TEST(AdapterConfigTest, WhatIsNotUnderstoodIsRefused) {
  const std::string cases[] = {
      "",
      "[]",
      "{",
      "{\"a\": \"\xff\"}",
      R"({"unet.lora_alpha": "8"})",
      R"({"unet.lora_alpha": 1e999})",
      R"({"unet.lora_alpha": null})",
      R"({"unet.use_rslora": 1})",
      R"({"unet.init_lora_weights": 1})",
      R"({"unet.alpha_pattern": []})",
      R"({"unet.alpha_pattern": {"(": 8}})",
      R"({"unet.alpha_pattern": {"x": "8"}})",
      R"({"unet.alpha_pattern": {"a{1000}{1000}": 8}})",
      R"({"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}})",
      std::string(100000, '['),
  };
  for (const std::string& json : cases) {
    EXPECT_THAT(Parse(json), HasReason(ErrorReason::kAdapterCorrupt))
        << json.substr(0, 80);
  }
}

// An object of `count` members, "<prefix>0" and so on, all of 1.
std::string Members(const std::string& prefix, int count) {
  const auto member = [&prefix](std::string* out, int i) {
    absl::StrAppend(out, "\"", prefix, i, "\":1");
  };
  std::vector<int> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  return absl::StrCat("{", absl::StrJoin(numbers, ",", member), "}");
}

std::string Patterns(const std::string& members) {
  return absl::StrCat(R"({"unet.alpha_pattern": )", members, "}");
}

// An object with a list of `count` times `value`.
std::string List(const std::string& value, int count) {
  const std::vector<std::string> values(static_cast<size_t>(count), value);
  return absl::StrCat(R"({"unet.target_modules": [)",
                      absl::StrJoin(values, ","), "]}");
}

TEST(AdapterConfigTest, WhatItCanCostIsBounded) {
  struct Case {
    std::string fits;
    std::string exceeds;
    const char* message;
  };
  const std::string key = R"({"a": ")";
  const auto filled = [&key](int64_t size) {
    const auto rest = static_cast<size_t>(size) - key.size() - 2;
    return absl::StrCat(key, std::string(rest, 'x'), "\"}");
  };
  const auto pattern = [](int size) {
    return Patterns(Members(std::string(static_cast<size_t>(size) - 1, 'x'),
                            /*count=*/1));
  };
  const Case cases[] = {
      {filled(AdapterConfig::kMaxBytes), filled(AdapterConfig::kMaxBytes + 1),
       "longer than 262144 bytes"},
      {Members("a", 16384), Members("a", 16385), "more than 16384 keys"},
      // With the key "unet.rank_pattern" and in two objects.
      {absl::StrCat(R"({"unet.rank_pattern": )", Members("a", 8191),
                    R"(, "text_encoder.rank_pattern": )", Members("a", 8191),
                    "}"),
       absl::StrCat(R"({"unet.rank_pattern": )", Members("a", 8191),
                    R"(, "text_encoder.rank_pattern": )", Members("a", 8192),
                    "}"),
       "more than 16384 keys"},
      {Patterns(Members("a", 1024)), Patterns(Members("a", 1025)),
       "more than 1024 patterns"},
      // Of all components together.
      {absl::StrCat(R"({"a.alpha_pattern": )", Members("a", 512),
                    R"(, "b.alpha_pattern": )", Members("a", 512), "}"),
       absl::StrCat(R"({"a.alpha_pattern": )", Members("a", 512),
                    R"(, "b.alpha_pattern": )", Members("a", 513), "}"),
       "more than 1024 patterns"},
      {pattern(512), pattern(513), "longer than 512 bytes"},
      // The list and the object themselves are two more.
      {List("{}", 32766), List("{}", 32767), "more than 32768 values"},
      {List("1", 32766), List("1", 87000), "more than 32768 values"},
      {Patterns(Members("(?:[a-z]?){200}", 100)),
       Patterns(Members("(?:[a-z]?){200}", 200)), "too complex"},
  };
  for (const Case& c : cases) {
    EXPECT_THAT(Parse(c.fits), IsOk()) << c.message;
    EXPECT_THAT(Parse(c.exceeds),
                HasReason(ErrorReason::kAdapterCorrupt, HasSubstr(c.message)));
  }
}

// What PEFT writes where each module has an alpha of its own.
TEST(AdapterConfigTest, APatternForEachModuleOfABaseFits) {
  std::string members;
  for (const ModuleInfo& module : Sd15Modules().modules) {
    const std::string path = module.name.substr(module.name.find('.') + 1);
    absl::StrAppend(&members, members.empty() ? "" : ",", "\"", path, "\":2");
  }
  const std::string json =
      absl::StrCat(R"({"alpha_pattern": {)", members, "}}");
  EXPECT_EQ(Scale(json, kUnet, 4), 0.5);
}

TEST(AdapterConfigTest, AnAdapterForAChangedBaseIsRefusedByName) {
  for (const char* const name : {"pissa", "pissa_niter_16", "olora", "corda",
                                 "PiSSA", "an_initialisation_of_the_future"}) {
    EXPECT_THAT(
        Parse(absl::StrCat(R"({"unet.lora_alpha": 8,)",
                           R"("unet.init_lora_weights": ")", name, "\"}")),
        HasReason(ErrorReason::kAdapterKindUnsupported,
                  AllOf(HasSubstr(absl::StrCat("\"", name, "\"")),
                        HasSubstr("path_initial_model_for_weight_"
                                  "conversion"))));
  }
  // PEFT cannot convert it.
  EXPECT_THAT(Parse(R"({"init_lora_weights": "loftq"})"),
              HasReason(ErrorReason::kAdapterKindUnsupported,
                        AllOf(HasSubstr("\"loftq\""),
                              Not(HasSubstr("path_initial_model")))));
}

TEST(AdapterConfigTest, HowFactorsBeganIsOfNoInterestWhereTheBaseIsTheSame) {
  for (const char* const value :
       {"true", "false", "null", R"("gaussian")", R"("eva")", R"("orthogonal")",
        R"("mica")", R"("Gaussian")"}) {
    EXPECT_THAT(
        Parse(absl::StrCat(R"({"unet.init_lora_weights": )", value, "}")),
        IsOk())
        << value;
  }
}

TEST(AdapterConfigTest, WhatIsOfNoUseHereIsIgnored) {
  EXPECT_THAT(Parse(R"({"unet.r": "x", "unet.target_modules": ["to_q"],
                        "unet.alpha_pattern": null})"),
              IsOk());
}

}  // namespace
}  // namespace graft

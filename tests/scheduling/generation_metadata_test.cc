#include "server/scheduling/generation_metadata.h"

#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::Contains;
using testing::IsEmpty;
using testing::Key;
using testing::Not;
using testing::Pair;

// What AUTOMATIC1111's web UI reads from a `parameters` chunk:
// modules/infotext_utils.py, parse_generation_parameters (1.10), with its
// regular expression and its order of steps.
struct Infotext {
  std::string prompt;
  std::string negative_prompt;
  std::map<std::string, std::string> values;
};

std::string Strip(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\n") - begin + 1);
}

std::map<std::string, std::string> FindPairs(const std::string& line) {
  static const std::regex pattern(
      R"re(\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$))re");
  std::map<std::string, std::string> pairs;
  for (std::sregex_iterator match(line.begin(), line.end(), pattern), end;
       match != end; ++match) {
    std::string value = (*match)[2];
    if (value.size() > 1 && value.front() == '"' && value.back() == '"') {
      value = nlohmann::json::parse(value).get<std::string>();
    }
    pairs[(*match)[1]] = value;
  }
  return pairs;
}

Infotext Parse(const std::string& text) {
  Infotext parsed;
  std::vector<std::string> lines;
  std::istringstream stream(Strip(text));
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  parsed.values = FindPairs(lines.back());
  if (parsed.values.size() < 3) {
    parsed.values.clear();
  } else {
    lines.pop_back();
  }
  std::string* target = &parsed.prompt;
  for (std::string line : lines) {
    line = Strip(line);
    if (line.rfind("Negative prompt:", 0) == 0) {
      target = &parsed.negative_prompt;
      line = Strip(line.substr(16));
    }
    *target += (target->empty() ? "" : "\n") + line;
  }
  return parsed;
}

EngineInfo Engine() {
  EngineInfo engine;
  engine.model_name = "shapes";
  engine.base_sha256 = std::string(60, 'a') + "0123";
  engine.device = "cpu";
  engine.dtype = "float32";
  engine.torch_version = "2.11.0";
  return engine;
}

GenerationParams Params() {
  GenerationParams params;
  params.prompt = "a small blue star";
  params.width = 128;
  params.height = 192;
  params.steps = 25;
  params.guidance_scale = 4;
  params.sampler = "euler_a";
  params.seed = 18446744073709551615u;
  return params;
}

std::string Chunk(const PngText& text, const std::string& key) {
  for (const auto& [name, value] : text) {
    if (name == key) return value;
  }
  ADD_FAILURE() << "no chunk " << key;
  return "";
}

Infotext ReadBack(const GenerationParams& params,
                  const std::vector<AppliedAdapter>& adapters = {},
                  const EngineInfo& engine = Engine()) {
  return Parse(
      Chunk(GenerationMetadata(engine, params, adapters), "parameters"));
}

TEST(GenerationMetadataTest, InfotextIsInTheFormOfAutomatic1111) {
  EXPECT_EQ(Chunk(GenerationMetadata(Engine(), Params(), {}), "parameters"),
            "a small blue star\n"
            "Steps: 25, Sampler: Euler a, CFG scale: 4, "
            "Seed: 18446744073709551615, Size: 128x192, "
            "Model hash: aaaaaaaaaa, Model: shapes, Version: graft 0.1.0");
}

TEST(GenerationMetadataTest, InfotextReadsBack) {
  GenerationParams params = Params();
  params.negative_prompt = "red, green";
  params.guidance_scale = 7.5;
  const Infotext read = ReadBack(params);
  EXPECT_EQ(read.prompt, "a small blue star");
  EXPECT_EQ(read.negative_prompt, "red, green");
  EXPECT_THAT(read.values, Contains(Pair("Steps", "25")));
  EXPECT_THAT(read.values, Contains(Pair("CFG scale", "7.5")));
  EXPECT_THAT(read.values, Contains(Pair("Size", "128x192")));
  EXPECT_THAT(read.values, Not(Contains(Key("Lora hashes"))));
}

TEST(GenerationMetadataTest, SeveralAdaptersReadBackAsOneValue) {
  const Infotext read =
      ReadBack(Params(), {{"ink", std::string(64, 'c'), 1.0, 1.0},
                          {"night-2.0", std::string(64, 'd'), 0.5, 0.5}});
  EXPECT_THAT(read.values,
              Contains(Pair("Lora hashes",
                            "ink: cccccccccccc, night-2.0: dddddddddddd")));
  EXPECT_THAT(read.values, Contains(Pair("Version", "graft 0.1.0")));
}

TEST(GenerationMetadataTest, PromptWithSeveralLinesReadsBack) {
  GenerationParams params = Params();
  params.prompt =
      "a star,\nSteps: 1, Sampler: none, Seed: 2\nand a \"moon\": é";
  const Infotext read = ReadBack(params);
  EXPECT_EQ(read.prompt, params.prompt);
  EXPECT_THAT(read.values, Contains(Pair("Steps", "25")));
}

TEST(GenerationMetadataTest, EmptyPromptReadsBack) {
  GenerationParams params = Params();
  params.prompt.clear();
  const Infotext read = ReadBack(params);
  EXPECT_THAT(read.prompt, IsEmpty());
  EXPECT_THAT(read.values, Contains(Pair("Steps", "25")));
}

TEST(GenerationMetadataTest, ModelNameThatNeedsQuotesReadsBack) {
  EngineInfo engine = Engine();
  engine.model_name = "my, \"best\": model";
  const Infotext read = ReadBack(Params(), {}, engine);
  EXPECT_THAT(read.values, Contains(Pair("Model", "my, \"best\": model")));
}

// A text chunk ends at NUL; the reader would lose the rest.
TEST(GenerationMetadataTest, NulDoesNotCutTheInfotext) {
  GenerationParams params = Params();
  params.prompt = std::string("a\0b", 3);
  const PngText text = GenerationMetadata(Engine(), params, {});
  EXPECT_EQ(Chunk(text, "parameters").find('\0'), std::string::npos);
  EXPECT_EQ(Chunk(text, "graft").find('\0'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(Chunk(text, "graft")).at("prompt"),
            params.prompt);
}

TEST(GenerationMetadataTest, JsonHoldsTheWholeRecipe) {
  GenerationParams params = Params();
  params.negative_prompt = "red";
  const auto json = nlohmann::json::parse(
      Chunk(GenerationMetadata(Engine(), params,
                               {{"ink", std::string(64, 'c'), 0.8, -1.0}}),
            "graft"));
  EXPECT_EQ(json, nlohmann::json::parse(R"json({
      "base_sha256": ")json" + Engine().base_sha256 +
                                        R"json(",
      "adapters": [{"name": "ink", "sha256":
        "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
        "weight": 0.8, "text_encoder_weight": -1.0}],
      "prompt": "a small blue star", "negative_prompt": "red",
      "seed": 18446744073709551615, "sampler": "euler_a", "steps": 25,
      "guidance_scale": 4.0, "width": 128, "height": 192,
      "dtype": "float32", "device": "cpu",
      "versions": {"graft": "0.1.0", "torch": "2.11.0"}})json"));
}

// "ink" in two ranges, and "night" throughout.
std::vector<AppliedAdapter> Scheduled() {
  return {{"ink",
           std::string(64, 'c'),
           1.0,
           1.0,
           {{.from = 0, .to = 0.4, .weight = 0.8, .text_encoder_weight = 0.5},
            {.from = 0.4, .to = 1, .weight = -1, .text_encoder_weight = -1}}},
          {"night", std::string(64, 'd'), 0.5, 0.5}};
}

TEST(GenerationMetadataTest, InfotextTellsSchedulesAsTheClientTakesThem) {
  const Infotext read = ReadBack(Params(), Scheduled());
  EXPECT_THAT(read.values,
              Contains(Pair("Lora schedules", "ink: 0.8:0.5@0-0.4 -1@0.4-1")));
  EXPECT_THAT(read.values, Contains(Key("Lora hashes")));
  EXPECT_THAT(ReadBack(Params(), {Scheduled()[1]}).values,
              Not(Contains(Key("Lora schedules"))));
}

TEST(GenerationMetadataTest, InJsonTheScheduleStandsForTheWeights) {
  const auto json = nlohmann::json::parse(
      Chunk(GenerationMetadata(Engine(), Params(), Scheduled()), "graft"));
  EXPECT_EQ(json.at("adapters")[0], nlohmann::json::parse(R"json({
      "name": "ink", "sha256":
        "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
      "schedule": [
        {"from": 0.0, "to": 0.4, "weight": 0.8, "text_encoder_weight": 0.5},
        {"from": 0.4, "to": 1.0, "weight": -1.0, "text_encoder_weight": -1.0}
      ]})json"));
  EXPECT_EQ(json.at("adapters")[1].at("weight"), 0.5);
}

}  // namespace
}  // namespace graft

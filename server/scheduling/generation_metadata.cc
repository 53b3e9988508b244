#include "server/scheduling/generation_metadata.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "server/common/version.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

// As AUTOMATIC1111 calls it.
absl::string_view SamplerDisplayName(absl::string_view sampler) {
  if (sampler == "ddim") return "DDIM";
  if (sampler == "euler") return "Euler";
  if (sampler == "euler_a") return "Euler a";
  if (sampler == "dpmpp_2m") return "DPM++ 2M";
  return sampler;
}

// The shortest decimal that reads back as `value`: "4", "7.5".
std::string ShortestDecimal(double value) {
  char buffer[32];
  const auto end = std::to_chars(std::begin(buffer), std::end(buffer), value);
  return std::string(buffer, end.ptr);
}

// A PNG text chunk cannot hold NUL, which a prompt may: U+FFFD stands for it
// here, while the JSON chunk escapes it.
std::string WithoutNul(absl::string_view text) {
  return absl::StrReplaceAll(text,
                             {{absl::string_view("\0", 1), "\xEF\xBF\xBD"}});
}

// A value of the last line. The reader takes a value up to the next comma, so
// one with a comma, a colon or a line break is written as a JSON string.
std::string InfotextValue(const std::string& value) {
  if (value.find_first_of(",:\n\"") == std::string::npos) return value;
  return Json(value).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string LoraHashes(const std::vector<AppliedAdapter>& adapters) {
  return absl::StrJoin(
      adapters, ", ", [](std::string* out, const AppliedAdapter& adapter) {
        absl::StrAppend(out, adapter.name, ": ", adapter.sha256.substr(0, 12));
      });
}

std::string Infotext(const EngineInfo& engine, const GenerationParams& params,
                     const std::vector<AppliedAdapter>& adapters) {
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"Steps", absl::StrCat(params.steps)},
      {"Sampler", std::string(SamplerDisplayName(params.sampler))},
      {"CFG scale", ShortestDecimal(params.guidance_scale)},
      {"Seed", absl::StrCat(params.seed)},
      {"Size", absl::StrCat(params.width, "x", params.height)},
      {"Model hash", engine.base_sha256.substr(0, 10)},
      {"Model", engine.model_name},
  };
  if (!adapters.empty())
    pairs.emplace_back("Lora hashes", LoraHashes(adapters));
  pairs.emplace_back("Version", absl::StrCat("graft ", Version()));

  std::string text = WithoutNul(params.prompt);
  if (!params.negative_prompt.empty()) {
    absl::StrAppend(&text,
                    "\nNegative prompt: ", WithoutNul(params.negative_prompt));
  }
  absl::StrAppend(
      &text, "\n",
      absl::StrJoin(pairs, ", ", [](std::string* out, const auto& pair) {
        absl::StrAppend(out, pair.first, ": ", InfotextValue(pair.second));
      }));
  return text;
}

Json AdaptersJson(const std::vector<AppliedAdapter>& adapters) {
  Json list = Json::array();
  for (const AppliedAdapter& adapter : adapters) {
    list.push_back({{"name", adapter.name},
                    {"sha256", adapter.sha256},
                    {"weight", adapter.weight},
                    {"text_encoder_weight", adapter.text_encoder_weight}});
  }
  return list;
}

std::string RecipeJson(const EngineInfo& engine, const GenerationParams& params,
                       const std::vector<AppliedAdapter>& adapters) {
  const Json recipe = {
      {"base_sha256", engine.base_sha256},
      {"adapters", AdaptersJson(adapters)},
      {"prompt", params.prompt},
      {"negative_prompt", params.negative_prompt},
      {"seed", params.seed},
      {"sampler", params.sampler},
      {"steps", params.steps},
      {"guidance_scale", params.guidance_scale},
      {"width", params.width},
      {"height", params.height},
      {"dtype", engine.dtype},
      {"device", engine.device},
      {"versions",
       {{"graft", std::string(Version())}, {"torch", engine.torch_version}}},
  };
  return recipe.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

PngText GenerationMetadata(const EngineInfo& engine,
                           const GenerationParams& params,
                           const std::vector<AppliedAdapter>& adapters) {
  return {{"parameters", Infotext(engine, params, adapters)},
          {"graft", RecipeJson(engine, params, adapters)}};
}

}  // namespace graft

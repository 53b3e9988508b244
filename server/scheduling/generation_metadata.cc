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

// "ink: 0.8:0.5@0-0.4 1@0.4-1", as the client's --adapter takes it: the weight,
// the text encoder's if it is another, and the fractions of the steps.
std::string LoraSchedules(const std::vector<AppliedAdapter>& adapters) {
  std::vector<std::string> schedules;
  for (const AppliedAdapter& adapter : adapters) {
    if (adapter.schedule.empty()) continue;
    std::string text = absl::StrCat(adapter.name, ":");
    for (const WeightRange& range : adapter.schedule) {
      absl::StrAppend(&text, " ", ShortestDecimal(range.weight));
      if (range.text_encoder_weight != range.weight) {
        absl::StrAppend(&text, ":", ShortestDecimal(range.text_encoder_weight));
      }
      absl::StrAppend(&text, "@", ShortestDecimal(range.from), "-",
                      ShortestDecimal(range.to));
    }
    schedules.push_back(std::move(text));
  }
  return absl::StrJoin(schedules, ", ");
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
  const std::string schedules = LoraSchedules(adapters);
  if (!schedules.empty()) pairs.emplace_back("Lora schedules", schedules);
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

Json ScheduleJson(const std::vector<WeightRange>& schedule) {
  Json list = Json::array();
  for (const WeightRange& range : schedule) {
    list.push_back({{"from", range.from},
                    {"to", range.to},
                    {"weight", range.weight},
                    {"text_encoder_weight", range.text_encoder_weight}});
  }
  return list;
}

// Each with its weights, or with the schedule that stands in their place.
Json AdaptersJson(const std::vector<AppliedAdapter>& adapters) {
  Json list = Json::array();
  for (const AppliedAdapter& adapter : adapters) {
    Json entry = {{"name", adapter.name}, {"sha256", adapter.sha256}};
    if (adapter.schedule.empty()) {
      entry["weight"] = adapter.weight;
      entry["text_encoder_weight"] = adapter.text_encoder_weight;
    } else {
      entry["schedule"] = ScheduleJson(adapter.schedule);
    }
    list.push_back(std::move(entry));
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

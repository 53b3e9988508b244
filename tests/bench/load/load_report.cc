#include "tests/bench/load/load_report.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/client_status.h"

namespace graft::load {
namespace {

using Json = nlohmann::ordered_json;
using Outcomes = std::vector<const Outcome*>;
using Measure = std::function<double(const Outcome&)>;

struct Stage {
  const char* name;
  double (v1::GenerationTimings::*milliseconds)() const;
};

constexpr Stage kStages[] = {
    {"adapter_load", &v1::GenerationTimings::adapter_load_ms},
    {"queue", &v1::GenerationTimings::queue_ms},
    {"switch", &v1::GenerationTimings::switch_ms},
    {"text_encode", &v1::GenerationTimings::text_encode_ms},
    {"denoise", &v1::GenerationTimings::denoise_ms},
    {"vae_decode", &v1::GenerationTimings::vae_decode_ms},
    {"image_encode", &v1::GenerationTimings::image_encode_ms},
};

bool Contains(const Window& window, absl::Duration at) {
  return window.from <= at && at < window.to;
}

Outcomes Select(const std::vector<Outcome>& outcomes,
                const std::function<bool(const Outcome&)>& wanted) {
  Outcomes selected;
  for (const Outcome& outcome : outcomes) {
    if (wanted(outcome)) selected.push_back(&outcome);
  }
  return selected;
}

Json Spread(const Outcomes& outcomes, const Measure& measure) {
  std::vector<double> values;
  for (const Outcome* outcome : outcomes) values.push_back(measure(*outcome));
  return {{"p50", Percentile(values, 50)},
          {"p90", Percentile(values, 90)},
          {"p99", Percentile(values, 99)},
          {"max", Percentile(values, 100)}};
}

double OutsideMs(const Outcome& outcome) {
  double inside = 0;
  for (const Stage& stage : kStages) {
    inside += (outcome.timings.*stage.milliseconds)();
  }
  return absl::ToDoubleMilliseconds(outcome.ended - outcome.sent) - inside;
}

double LatencyMs(const Outcome& outcome) {
  return absl::ToDoubleMilliseconds(outcome.latency());
}

// "OK", or "CODE REASON".
std::string Answer(const absl::Status& status) {
  if (status.ok()) return "OK";
  return absl::StrCat(absl::StatusCodeToString(status.code()), " ",
                      ErrorReasonOf(status));
}

Json CountAnswers(const Outcomes& outcomes) {
  std::map<std::string, int> counts;
  for (const Outcome* outcome : outcomes) ++counts[Answer(outcome->status)];
  return counts;
}

Json Refusals(const Outcomes& refused) {
  const auto with_delay =
      std::count_if(refused.begin(), refused.end(), [](const Outcome* outcome) {
        return RetryDelayOf(outcome->status).has_value();
      });
  return {{"requests", refused.size()},
          {"with_retry_delay", with_delay},
          {"answer_ms", Spread(refused, LatencyMs)}};
}

Json StageSpreads(const Outcomes& served) {
  Json spreads;
  for (const Stage& stage : kStages) {
    spreads[stage.name] = Spread(served, [&](const Outcome& outcome) {
      return (outcome.timings.*stage.milliseconds)();
    });
  }
  return spreads;
}

std::string SpreadRow(const std::string& name, const Json& spread) {
  return absl::StrFormat(
      "  %-18s %10.2f %10.2f %10.2f %10.2f\n", name,
      spread["p50"].get<double>(), spread["p90"].get<double>(),
      spread["p99"].get<double>(), spread["max"].get<double>());
}

}  // namespace

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(percent / 100 * values.size());
  return values[static_cast<size_t>(std::max(rank, 1.0)) - 1];
}

Json Summarize(const std::vector<Outcome>& outcomes, const Window& window) {
  const Outcomes asked = Select(outcomes, [&](const Outcome& outcome) {
    return Contains(window, outcome.scheduled);
  });
  const Outcomes served = Select(outcomes, [&](const Outcome& outcome) {
    return Contains(window, outcome.scheduled) && outcome.status.ok();
  });
  const Outcomes ended = Select(outcomes, [&](const Outcome& outcome) {
    return Contains(window, outcome.ended) && outcome.status.ok();
  });
  const Outcomes refused = Select(outcomes, [&](const Outcome& outcome) {
    return Contains(window, outcome.scheduled) &&
           absl::IsUnavailable(outcome.status);
  });
  const double seconds = absl::ToDoubleSeconds(window.to - window.from);
  std::set<std::string> adapters;
  for (const Outcome* outcome : asked) adapters.insert(outcome->adapter);
  int images = 0;
  for (const Outcome* outcome : ended) images += outcome->images;
  int all_images = 0;
  for (const Outcome& outcome : outcomes) all_images += outcome.images;
  return {{"seconds", seconds},
          {"offered_per_s", asked.size() / seconds},
          {"served_per_s", ended.size() / seconds},
          {"images_per_s", images / seconds},
          {"images_total", all_images},
          {"answers", CountAnswers(asked)},
          {"adapters", adapters.size()},
          {"latency_ms", Spread(served, LatencyMs)},
          {"late_ms", Spread(asked,
                             [](const Outcome& outcome) {
                               return absl::ToDoubleMilliseconds(
                                   outcome.sent - outcome.scheduled);
                             })},
          {"stages_ms", StageSpreads(served)},
          {"outside_ms", Spread(served, OutsideMs)},
          {"refused", Refusals(refused)}};
}

std::string ToTable(const Json& summary) {
  std::string table = absl::StrFormat(
      "%.1f s: %.2f requests/s offered, %.2f served, %.2f images/s, "
      "%d adapters\n",
      summary["seconds"].get<double>(), summary["offered_per_s"].get<double>(),
      summary["served_per_s"].get<double>(),
      summary["images_per_s"].get<double>(), summary["adapters"].get<int>());
  for (const auto& [answer, count] : summary["answers"].items()) {
    absl::StrAppendFormat(&table, "  %6d %s\n", count.get<int>(), answer);
  }
  const Json& refused = summary["refused"];
  absl::StrAppendFormat(&table, "  %6d of the refused say when to come again\n",
                        refused["with_retry_delay"].get<int>());
  absl::StrAppendFormat(&table, "  %-18s %10s %10s %10s %10s\n", "ms", "p50",
                        "p90", "p99", "max");
  table += SpreadRow("latency", summary["latency_ms"]);
  for (const auto& [stage, spread] : summary["stages_ms"].items()) {
    table += SpreadRow("  " + stage, spread);
  }
  table += SpreadRow("  outside of these", summary["outside_ms"]);
  table += SpreadRow("until refused", refused["answer_ms"]);
  table += SpreadRow("sent late by", summary["late_ms"]);
  return table;
}

}  // namespace graft::load

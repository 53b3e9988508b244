#include "server/engine/weights/switch_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/base/casts.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {
namespace {

const PreparedWeights& Weights(const WeightedAdapter& member) {
  return static_cast<const PreparedWeights&>(*member.adapter);
}

void AddTarget(const PreparedTarget& target, double weight,
               PlannedParameter& planned) {
  if (!target.additive()) {
    planned.functions.emplace_back(target.function.get(), weight);
    return;
  }
  DeltaTerm term = target.factors.term();
  term.coefficient = static_cast<float>(weight * term.coefficient);
  planned.terms.push_back(term);
  planned.bound += std::isfinite(term.coefficient)
                       ? std::abs(weight) * target.bound
                       : std::numeric_limits<double>::infinity();
}

}  // namespace

const PlannedParameter* SwitchPlan::Find(uint32_t parameter) const {
  const auto it =
      std::lower_bound(parameters.begin(), parameters.end(), parameter,
                       [](const PlannedParameter& planned, uint32_t wanted) {
                         return planned.parameter < wanted;
                       });
  return it != parameters.end() && it->parameter == parameter ? &*it : nullptr;
}

absl::StatusOr<AdapterSet> CanonicalSet(AdapterSet set) {
  std::sort(set.begin(), set.end(),
            [](const WeightedAdapter& a, const WeightedAdapter& b) {
              return a.adapter->sha256() < b.adapter->sha256();
            });
  for (size_t i = 0; i < set.size(); ++i) {
    if (!std::isfinite(set[i].unet_weight) ||
        !std::isfinite(set[i].text_encoder_weight)) {
      return InvalidField("adapters.weight", "is not finite");
    }
    if (i > 0 && set[i].adapter->sha256() == set[i - 1].adapter->sha256()) {
      return InvalidField(
          "adapters",
          absl::StrCat("the adapter with SHA-256 ", set[i].adapter->sha256(),
                       " is named twice; name it once with the sum of the "
                       "weights"));
    }
  }
  return set;
}

bool SameSet(const AdapterSet& a, const AdapterSet& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const WeightedAdapter& x, const WeightedAdapter& y) {
                      return x.adapter->sha256() == y.adapter->sha256() &&
                             x.unet_weight == y.unet_weight &&
                             x.text_encoder_weight == y.text_encoder_weight;
                    });
}

SwitchPlan MakeSwitchPlan(
    const AdapterSet& set,
    const std::map<std::string, uint32_t, std::less<>>& number) {
  std::map<uint32_t, PlannedParameter> planned;
  for (const WeightedAdapter& member : set) {
    for (const auto& [name, target] : Weights(member).targets()) {
      const double weight = target.in_text_encoder ? member.text_encoder_weight
                                                   : member.unet_weight;
      // Weight 0 means not merged: the parameter keeps its base bits.
      if (weight == 0) continue;
      AddTarget(target, weight, planned[number.find(name)->second]);
    }
  }
  SwitchPlan plan;
  for (auto& [parameter, target] : planned) {
    target.parameter = parameter;
    for (const DeltaTerm& term : target.terms) {
      plan.max_rank =
          std::max({plan.max_rank, term.first.rank, term.second.rank});
    }
    plan.max_terms =
        std::max(plan.max_terms, static_cast<int>(target.terms.size()));
    plan.parameters.push_back(std::move(target));
  }
  return plan;
}

std::string TextEncoderState(const AdapterSet& set) {
  std::string state;
  for (const WeightedAdapter& member : set) {
    if (member.text_encoder_weight == 0) continue;
    const auto& targets = Weights(member).targets();
    const bool reaches = std::any_of(
        targets.begin(), targets.end(),
        [](const auto& target) { return target.second.in_text_encoder; });
    if (!reaches) continue;
    absl::StrAppend(
        &state, member.adapter->sha256(), "=",
        absl::Hex(absl::bit_cast<uint64_t>(member.text_encoder_weight)), "\n");
  }
  return state;
}

}  // namespace graft

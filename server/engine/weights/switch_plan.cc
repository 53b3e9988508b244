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

// One member's change of one parameter.
struct WeightedTarget {
  const PreparedTarget* target;
  double weight;
};

// Of all members, by parameter; those of one parameter in the order of the set.
std::vector<WeightedTarget> TargetsOf(const AdapterSet& set) {
  std::vector<WeightedTarget> targets;
  size_t count = 0;
  for (const WeightedAdapter& member : set) {
    count += Weights(member).targets().size();
  }
  targets.reserve(count);
  for (const WeightedAdapter& member : set) {
    for (const PreparedTarget& target : Weights(member).targets()) {
      const double weight = target.in_text_encoder ? member.text_encoder_weight
                                                   : member.unet_weight;
      // Weight 0 means not merged: the parameter keeps its base bits.
      if (weight != 0) targets.push_back({&target, weight});
    }
  }
  if (set.size() > 1) {
    std::stable_sort(targets.begin(), targets.end(),
                     [](const WeightedTarget& a, const WeightedTarget& b) {
                       return a.target->parameter < b.target->parameter;
                     });
  }
  return targets;
}

void AddTarget(const WeightedTarget& change, PlannedParameter& planned,
               SwitchPlan& plan) {
  const PreparedTarget& target = *change.target;
  if (!target.additive()) {
    planned.functions.emplace_back(target.function.get(), change.weight);
    return;
  }
  DeltaTerm& term = plan.terms.emplace_back(target.factors.term());
  term.coefficient = static_cast<float>(change.weight * term.coefficient);
  ++planned.num_terms;
  planned.bound += std::isfinite(term.coefficient)
                       ? std::abs(change.weight) * target.bound
                       : std::numeric_limits<double>::infinity();
  plan.max_rank = std::max({plan.max_rank, term.first.rank, term.second.rank});
  plan.max_terms =
      std::max(plan.max_terms, static_cast<int>(planned.num_terms));
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

SwitchPlan MakeSwitchPlan(const AdapterSet& set) {
  const std::vector<WeightedTarget> targets = TargetsOf(set);
  SwitchPlan plan;
  plan.parameters.reserve(targets.size());
  plan.terms.reserve(targets.size());
  for (const WeightedTarget& change : targets) {
    const uint32_t parameter = change.target->parameter;
    if (plan.parameters.empty() ||
        plan.parameters.back().parameter != parameter) {
      PlannedParameter& planned = plan.parameters.emplace_back();
      planned.parameter = parameter;
      planned.first_term = static_cast<uint32_t>(plan.terms.size());
    }
    AddTarget(change, plan.parameters.back(), plan);
  }
  return plan;
}

std::string TextEncoderState(const AdapterSet& set) {
  std::string state;
  for (const WeightedAdapter& member : set) {
    if (member.text_encoder_weight == 0) continue;
    if (!Weights(member).reaches_text_encoder()) continue;
    absl::StrAppend(
        &state, member.adapter->sha256(), "=",
        absl::Hex(absl::bit_cast<uint64_t>(member.text_encoder_weight)), "\n");
  }
  return state;
}

}  // namespace graft

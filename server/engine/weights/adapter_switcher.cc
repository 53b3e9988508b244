#include "server/engine/weights/adapter_switcher.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/engine/cuda/cuda_kernels.h"
#include "server/engine/torch_status.h"

namespace graft {
namespace {

double LargestFinite(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return std::numeric_limits<at::Half>::max();
    case at::kBFloat16:
      return std::numeric_limits<at::BFloat16>::max();
    default:
      return std::numeric_limits<float>::max();
  }
}

// Waits for the device: a time is only true after it.
void Synchronize(const at::Tensor& tensor) {
  if (tensor.is_cuda()) tensor.flatten().slice(0, 0, 1).to(at::kCPU);
}

bool SameSet(const AdapterSet& a, const AdapterSet& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const WeightedAdapter& x, const WeightedAdapter& y) {
                      return x.adapter->sha256() == y.adapter->sha256() &&
                             x.unet_weight == y.unet_weight &&
                             x.text_encoder_weight == y.text_encoder_weight;
                    });
}

// The set in its canonical order.
absl::StatusOr<AdapterSet> Canonical(AdapterSet set) {
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

}  // namespace

AdapterSwitcher::Plan AdapterSwitcher::MakePlan(const AdapterSet& set) {
  Plan plan;
  for (const WeightedAdapter& member : set) {
    const auto& adapter = static_cast<const PreparedLora&>(*member.adapter);
    for (const auto& [parameter, target] : adapter.targets()) {
      const double weight = target.in_text_encoder ? member.text_encoder_weight
                                                   : member.unet_weight;
      // Weight 0 means not merged: the parameter keeps its base bits.
      if (weight != 0) plan[parameter].push_back({&target, weight});
    }
  }
  return plan;
}

const at::Tensor& AdapterSwitcher::Pristine(
    const std::string& parameter) const {
  const auto it = backup_.find(parameter);
  return it != backup_.end() ? it->second : store_->at(parameter);
}

at::Tensor AdapterSwitcher::Delta(const std::vector<Term>& terms) {
  std::vector<at::Tensor> ups, downs;
  for (const auto& [target, weight] : terms) {
    ups.push_back(target->up * (weight * target->scale));
    downs.push_back(target->down);
  }
  return ups.size() == 1 ? at::mm(ups[0], downs[0])
                         : at::mm(at::cat(ups, 1), at::cat(downs, 0));
}

at::Tensor AdapterSwitcher::Merged(const std::string& parameter,
                                   const std::vector<Term>& terms) const {
  const at::Tensor& w0 = Pristine(parameter);
  return (w0.to(at::kFloat) + Delta(terms).view(w0.sizes()))
      .to(w0.scalar_type());
}

double AdapterSwitcher::LargestPristine(const std::string& parameter) {
  const auto known = largest_pristine_.find(parameter);
  if (known != largest_pristine_.end()) return known->second;
  const double largest = Pristine(parameter).abs().max().item<double>();
  largest_pristine_.emplace(parameter, largest);
  return largest;
}

absl::Status AdapterSwitcher::CheckFinite(const Plan& plan) {
  for (const auto& [parameter, terms] : plan) {
    const at::Tensor& w0 = Pristine(parameter);
    double bound = LargestPristine(parameter);
    for (const auto& [target, weight] : terms) {
      bound += std::abs(weight) * target->bound;
    }
    // Only where the bound does not settle it is the result itself computed. A
    // bound that is NaN does not settle it either.
    if (bound < LargestFinite(w0.scalar_type())) continue;
    if (!Merged(parameter, terms).isfinite().all().item<bool>()) {
      return Error(
          ErrorReason::kAdapterNonFinite,
          absl::StrCat("merging into \"", parameter, "\" would overflow ",
                       c10::toString(w0.scalar_type()),
                       "; use smaller weights or a wider --dtype"),
          {{"tensor", parameter}});
    }
  }
  return absl::OkStatus();
}

void AdapterSwitcher::BackUp(const Plan& plan) {
  for (const auto& [parameter, terms] : plan) {
    if (backup_.count(parameter) > 0) continue;
    // Not adapted before, so what is resident is W0.
    const at::Tensor copy = store_->at(parameter).clone();
    restore_bytes_.fetch_add(static_cast<int64_t>(copy.nbytes()));
    backup_.emplace(parameter, copy);
  }
}

void AdapterSwitcher::Write(const std::string& parameter,
                            const std::vector<Term>& terms) {
  if (fault_) fault_(parameter);
  const at::Tensor& live = store_->at(parameter);
  if (terms.empty()) {
    live.copy_(Pristine(parameter));
    return;
  }
  if (live.is_cuda() &&
      MergeOnCuda(live, Pristine(parameter), Delta(terms).contiguous())) {
    return;
  }
  live.copy_(Merged(parameter, terms));
}

void AdapterSwitcher::WriteAll(const std::set<std::string>& parameters,
                               const Plan& plan) {
  static const std::vector<Term> kNone;
  for (const std::string& parameter : parameters) {
    const auto terms = plan.find(parameter);
    Write(parameter, terms == plan.end() ? kNone : terms->second);
  }
  if (!parameters.empty()) Synchronize(store_->at(*parameters.rbegin()));
}

absl::StatusOr<SwitchReport> AdapterSwitcher::SwitchTo(const AdapterSet& set) {
  absl::StatusOr<AdapterSet> next = Canonical(set);
  if (!next.ok()) return next.status();
  SwitchReport report;
  if (SameSet(*next, current_)) return report;

  const Plan old_plan = MakePlan(current_);
  const Plan new_plan = MakePlan(*next);
  if (absl::Status finite = CheckFinite(new_plan); !finite.ok()) return finite;
  BackUp(new_plan);

  std::set<std::string> parameters;
  for (const auto& [parameter, terms] : old_plan) parameters.insert(parameter);
  for (const auto& [parameter, terms] : new_plan) parameters.insert(parameter);

  const auto start = std::chrono::steady_clock::now();
  try {
    WriteAll(parameters, new_plan);
  } catch (...) {
    const absl::Status failure = StatusFromCurrentException();
    GRAFT_LOG(kError, "switch failed, rolling back",
              {{"error", std::string(failure.message())}});
    RollBack(parameters, old_plan);
    return failure;
  }
  report.duration = absl::FromChrono(std::chrono::steady_clock::now() - start);
  report.changed = true;
  current_ = *std::move(next);
  return report;
}

void AdapterSwitcher::RollBack(const std::set<std::string>& parameters,
                               const Plan& old_plan) {
  fault_ = nullptr;
  const AdapterSet former = std::exchange(current_, {});
  // First plain copies, which need no memory: the base, exactly.
  WriteAll(parameters, {});
  try {
    WriteAll(parameters, old_plan);
    current_ = former;
  } catch (...) {
    // The former set cannot be merged again now (out of memory, say). The base
    // can, and current() says so: the next request switches from there.
    WriteAll(parameters, {});
  }
}

}  // namespace graft

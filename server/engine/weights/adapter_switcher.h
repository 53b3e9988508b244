#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_ADAPTER_SWITCHER_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_ADAPTER_SWITCHER_H_

#include <ATen/core/Tensor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/engine/engine.h"
#include "server/engine/weights/prepared_lora.h"
#include "server/engine/weights/weight_store.h"

namespace graft {

// Moves the live weights from one adapter set to another, in place. Every write
// to a base weight after load is here.
//
// Invariant: between calls, weights == round(W0 + sum of weight_i * D_i) for
// exactly the members of current(), bit for bit, and a function of base and set
// alone: members are taken in the order of their SHA-256, the sum is one
// float32 product over the concatenated ranks, rounded once to the weight's
// dtype. Not thread-safe: owner thread only, but for restore_bytes().
//
// This is the restore mode "backup": W0 of each adapted weight is kept beside
// it, copied the first time an adapter targets it.
class AdapterSwitcher {
 public:
  explicit AdapterSwitcher(const WeightStore* store) : store_(store) {}

  // All targets or none. Validates the whole set before the first write; when a
  // write fails half-way the former set is put back (or, where even that fails,
  // the base; current() tells the truth). Errors as for Engine::SwitchAdapters.
  absl::StatusOr<SwitchReport> SwitchTo(const AdapterSet& next);

  // The resident set, by SHA-256. Keeps its factors alive.
  const AdapterSet& current() const { return current_; }

  // Bytes of the backup copies. Thread-safe.
  int64_t restore_bytes() const { return restore_bytes_.load(); }

  // Called before each write with the name of its parameter; what it throws is
  // a failure at that target. For fault injection.
  void SetFaultForTesting(std::function<void(const std::string&)> fault) {
    fault_ = std::move(fault);
  }

 private:
  // One adapter's share in one parameter.
  struct Term {
    const LowRankTarget* target;
    double weight;
  };
  using Plan = std::map<std::string, std::vector<Term>>;

  static Plan MakePlan(const AdapterSet& set);
  absl::Status CheckFinite(const Plan& plan);
  // max|W0|, read from the weights once: W0 never changes.
  double LargestPristine(const std::string& parameter);
  void BackUp(const Plan& plan);
  void Write(const std::string& parameter, const std::vector<Term>& terms);
  void WriteAll(const std::set<std::string>& parameters, const Plan& plan);
  void RollBack(const std::set<std::string>& parameters, const Plan& old_plan);
  // Sum of weight * D, [out, in * kh * kw], float32.
  static at::Tensor Delta(const std::vector<Term>& terms);
  at::Tensor Merged(const std::string& parameter,
                    const std::vector<Term>& terms) const;
  const at::Tensor& Pristine(const std::string& parameter) const;

  const WeightStore* const store_;
  std::map<std::string, at::Tensor> backup_;
  std::map<std::string, double> largest_pristine_;
  std::atomic<int64_t> restore_bytes_{0};
  AdapterSet current_;
  std::function<void(const std::string&)> fault_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_ADAPTER_SWITCHER_H_

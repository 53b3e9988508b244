#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_SWITCH_PLAN_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_SWITCH_PLAN_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/engine.h"
#include "server/engine/weights/prepared_weights.h"

namespace graft {

// What a set does to one parameter.
struct PlannedParameter {
  uint32_t parameter = 0;   // its place among the store's tensors()
  uint32_t first_term = 0;  // in the plan's terms
  uint32_t num_terms = 0;
  // Changes that are functions of W0, with their weights. They come after the
  // terms, in the order of the set too.
  std::vector<std::pair<const WeightFunction*, double>> functions;
  double bound = 0;  // no element of the terms' sum is larger
};

// What a set does, by parameter. Points into the set's adapters.
struct SwitchPlan {
  std::vector<PlannedParameter> parameters;  // by number
  std::vector<DeltaTerm> terms;              // with the weights multiplied in
  int max_rank = 0;
  int max_terms = 0;

  DeltaTerms TermsOf(const PlannedParameter& planned) const {
    return DeltaTerms(terms).subspan(planned.first_term, planned.num_terms);
  }
  const PlannedParameter* Find(uint32_t parameter) const;
};

// The set in its canonical order, by SHA-256. INVALID_FIELD for one adapter
// named twice and for weights that are not finite.
absl::StatusOr<AdapterSet> CanonicalSet(AdapterSet set);

// Whether two canonical sets are the same.
bool SameSet(const AdapterSet& a, const AdapterSet& b);

// REQUIRES: `set` is canonical, and prepared for one store.
SwitchPlan MakeSwitchPlan(const AdapterSet& set);

// The members of a canonical set that change the text encoder, with their
// weights, as text: equal where the text encoder's weights are equal.
std::string TextEncoderState(const AdapterSet& set);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_SWITCH_PLAN_H_

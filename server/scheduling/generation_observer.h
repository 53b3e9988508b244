#ifndef GRAFT_SERVER_SCHEDULING_GENERATION_OBSERVER_H_
#define GRAFT_SERVER_SCHEDULING_GENERATION_OBSERVER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace graft {

// An adapter as it was applied.
struct AppliedAdapter {
  std::string name;
  std::string sha256;
  double weight = 1.0;
  double text_encoder_weight = 1.0;
};

// Times of one request, summed over its images.
struct GenerationTimings {
  absl::Duration queue;
  absl::Duration adapter_switch;  // the pass over the weights alone
  absl::Duration text_encode;
  absl::Duration denoise;
  absl::Duration vae_decode;
  absl::Duration image_encode;
};

struct GenerationSummary {
  std::vector<uint64_t> seeds;  // one per image
  std::vector<AppliedAdapter> adapters;
  std::string base_sha256;
  GenerationTimings timings;
  int truncated_tokens = 0;
};

// How results come back from the scheduler. Calls come one at a time, from the
// owner thread or an executor thread, never with a lock held. OnDone is the
// last call and comes exactly once for a task that was accepted.
class GenerationObserver {
 public:
  virtual ~GenerationObserver() = default;
  virtual void OnQueued(int position) = 0;  // 0: next
  virtual void OnStarted() = 0;
  virtual void OnProgress(int image_index, int step, int steps) = 0;
  virtual void OnImage(int image_index, std::string png) = 0;
  virtual void OnDone(const absl::Status& status,
                      const GenerationSummary& summary) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_GENERATION_OBSERVER_H_

#ifndef GRAFT_SERVER_SCHEDULING_GENERATION_OBSERVER_H_
#define GRAFT_SERVER_SCHEDULING_GENERATION_OBSERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/scheduling/weight_schedule.h"

namespace graft {

// An adapter as it was applied.
struct AppliedAdapter {
  std::string name;
  std::string sha256;
  double weight = 1.0;
  double text_encoder_weight = 1.0;
  // Not empty: merged during these ranges only, with their weights.
  std::vector<WeightRange> schedule = {};
};

// Times of one request, summed over its images and over all that it was on the
// device for: a step or a switch that several requests share counts whole for
// each of them. While it yields to others, no time counts.
struct GenerationTimings {
  absl::Duration adapter_load;  // before acceptance
  absl::Duration queue;
  absl::Duration adapter_switch;  // the passes over the weights alone
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
// submitting thread or the scheduler's replier, never with a lock held.
// OnQueued is the first call, images come in order, and OnDone is the last call
// and comes exactly once for a task that was accepted. An implementation must
// return quickly: the replies of all requests wait for it.
class GenerationObserver {
 public:
  virtual ~GenerationObserver() = default;

  // `position` requests are before this one, the running ones included. Comes
  // again, before OnStarted, when that has changed.
  // `estimated_wait` until the device begins with it; zero as long as the
  // device's speed is not known.
  virtual void OnQueued(int position, absl::Duration estimated_wait) = 0;

  // The device begins with the request.
  virtual void OnStarted() = 0;

  // `step` of `steps` steps of one image are done. Of steps that follow each
  // other fast some are left out, but not the last one.
  virtual void OnProgress(int image_index, int step, int steps) = 0;

  // What one image may become, as a small PNG file, when `step` of `steps`
  // steps were done. Of previews that come faster than they can be encoded some
  // are left out.
  virtual void OnPreview(int image_index, int step, int steps,
                         std::string png) = 0;

  // One image is complete, as a PNG file, whose bytes all who hear of it share.
  virtual void OnImage(int image_index,
                       std::shared_ptr<const std::string> png) = 0;

  // All is over. With an error, images may be missing, and `summary` tells what
  // was reached.
  virtual void OnDone(const absl::Status& status,
                      const GenerationSummary& summary) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_GENERATION_OBSERVER_H_

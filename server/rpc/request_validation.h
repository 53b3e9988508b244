#ifndef GRAFT_SERVER_RPC_REQUEST_VALIDATION_H_
#define GRAFT_SERVER_RPC_REQUEST_VALIDATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "graft/v1/generation.pb.h"
#include "server/engine/generation_params.h"
#include "server/scheduling/generation_task.h"
#include "server/scheduling/request_loader.h"

namespace graft {

// What a request may ask for. Checked before the queue, published in
// ServerInfo, each with a flag of graftd.
struct RequestLimits {
  int max_steps = 1000;
  int min_side = 64;    // pixels
  int max_side = 2048;  // pixels
  int max_count = 16;
  int max_adapters = 16;
  double max_adapter_weight = 8.0;  // absolute value
  double max_guidance_scale = 100.0;
  int64_t max_prompt_bytes = int64_t{16} << 10;
  // For the record; these are enforced by the transport, the adapter room and
  // the scheduler.
  int64_t max_message_bytes = int64_t{4} << 20;
  int64_t max_adapter_file_bytes = int64_t{4} << 30;
  int64_t max_adapter_header_bytes = int64_t{8} << 20;
  int max_queued_requests = 256;
  int64_t max_queued_work = int64_t{256} * 1024 * 1024 * 50;
};

// Sides are multiples of this: the VAE's factor in the families served.
inline constexpr int kSideMultiple = 8;

// Ranges that one adapter's schedule may have.
inline constexpr int kMaxScheduleRanges = 16;

// What a request that does not say gets, and what clients are recommended.
struct GenerationDefaults {
  int width = 512;
  int height = 512;
  int steps = 25;
  double guidance_scale = 7.5;
  std::string sampler = "ddim";
};

// A GenerateImageRequest, checked and completed.
struct GenerationRequest {
  GenerationParams params;
  int count = 1;
  int preview_interval = 0;  // as in GenerationTask
  Priority priority = Priority::kInteractive;
  std::vector<AdapterChoice> adapters;
};

// Checks every field against `limits` and fills in `defaults`, and `fresh_seed`
// where the request has no seed. INVALID_FIELD names the first field that is
// wrong, as the proto spells it, and says what would be right.
absl::StatusOr<GenerationRequest> ValidateGenerateImageRequest(
    const v1::GenerateImageRequest& request, const RequestLimits& limits,
    const GenerationDefaults& defaults, uint64_t fresh_seed);

// OK if `name` could be an adapter's: [A-Za-z0-9][A-Za-z0-9._-]{0,127}; else
// INVALID_FIELD for `field`.
absl::Status ValidateAdapterName(absl::string_view name,
                                 absl::string_view field);

// `sha256` in lower case if it is empty or 64 hexadecimal digits; else
// INVALID_FIELD for `field`.
absl::StatusOr<std::string> ValidateSha256(absl::string_view sha256,
                                           absl::string_view field);

// `value` as the double that a person would have written: 0.8f is 0.8, not
// 0.800000011920929.
double WidenFloat(float value);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_REQUEST_VALIDATION_H_

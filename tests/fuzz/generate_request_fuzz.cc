// Requests: an input is a GenerateImageRequest on the wire or, where it is
// none, as text. What is accepted is within the limits; an error fits the
// trailers that clients take.

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "graft/v1/adapter.pb.h"
#include "graft/v1/generation.pb.h"
#include "server/adapters/adapter_id.h"
#include "server/common/error.h"
#include "server/common/utf8.h"
#include "server/rpc/grpc_status_util.h"
#include "server/rpc/proto_conversions.h"
#include "server/rpc/request_validation.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

constexpr size_t kMaxTrailerBytes = 8192;

// Prints nothing of what is no text form.
class Silent final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int /*line*/, int /*column*/,
                const std::string& /*message*/) override {}
};

template <typename Message>
bool Read(absl::string_view input, Message& message) {
  const std::string bytes(input);
  if (message.ParseFromString(bytes)) return true;
  message.Clear();
  Silent silent;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&silent);
  // From the wire, texts are UTF-8.
  return parser.ParseFromString(bytes, &message) &&
         message.ParseFromString(message.SerializeAsString());
}

// The message goes percent-encoded, the details in base64.
void CheckTrailers(const absl::Status& error) {
  const grpc::Status status = ToGrpcStatus(error);
  GRAFT_FUZZ_CHECK(IsValidUtf8(status.error_message()));
  size_t size = (status.error_details().size() + 2) / 3 * 4;
  for (const unsigned char c : status.error_message()) {
    size += c < 0x20 || c > 0x7E || c == '%' ? 3 : 1;
  }
  GRAFT_FUZZ_CHECK(size < kMaxTrailerBytes);
}

bool Within(double value, double min, double max) {
  return value >= min && value <= max;
}

void CheckAdapter(const AdapterChoice& adapter, const RequestLimits& limits) {
  const double max = limits.max_adapter_weight;
  GRAFT_FUZZ_CHECK(IsValidAdapterId(adapter.name));
  GRAFT_FUZZ_CHECK(adapter.sha256.empty() || adapter.sha256.size() == 64);
  GRAFT_FUZZ_CHECK(Within(adapter.weight, -max, max));
  GRAFT_FUZZ_CHECK(Within(adapter.text_encoder_weight, -max, max));
  GRAFT_FUZZ_CHECK(adapter.schedule.size() <= size_t{kMaxScheduleRanges});
  double covered = 0;
  for (const WeightRange& range : adapter.schedule) {
    GRAFT_FUZZ_CHECK(range.from >= covered && range.from < range.to);
    covered = range.to;
    GRAFT_FUZZ_CHECK(Within(range.weight, -max, max));
    GRAFT_FUZZ_CHECK(Within(range.text_encoder_weight, -max, max));
  }
  GRAFT_FUZZ_CHECK(covered <= 1);
}

void CheckRequest(const v1::GenerateImageRequest& request) {
  const RequestLimits limits;
  const auto checked = ValidateGenerateImageRequest(request, limits, {}, 1);
  if (!checked.ok()) {
    GRAFT_FUZZ_CHECK(GetErrorReason(checked.status()) ==
                     ErrorReason::kInvalidField);
    return CheckTrailers(checked.status());
  }
  const GenerationParams& params = checked->params;
  for (const int side : {params.width, params.height}) {
    GRAFT_FUZZ_CHECK(Within(side, limits.min_side, limits.max_side));
    GRAFT_FUZZ_CHECK(side % kSideMultiple == 0);
  }
  GRAFT_FUZZ_CHECK(Within(params.steps, 1, limits.max_steps));
  GRAFT_FUZZ_CHECK(Within(params.guidance_scale, 0, limits.max_guidance_scale));
  GRAFT_FUZZ_CHECK(IsValidUtf8(params.prompt));
  GRAFT_FUZZ_CHECK(Within(checked->count, 1, limits.max_count));
  GRAFT_FUZZ_CHECK(Within(checked->preview_interval, 0, params.steps));
  GRAFT_FUZZ_CHECK(checked->adapters.size() <=
                   static_cast<size_t>(limits.max_adapters));
  for (const AdapterChoice& adapter : checked->adapters) {
    CheckAdapter(adapter, limits);
  }
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  const std::vector<std::string> texts = {
      R"(prompt: "a star" steps: 20)",
      R"(prompt: "a" negative_prompt: "b" width: 512 height: 64 steps: 1
         guidance_scale: 7.5 sampler: "euler_a" seed: 1 count: 2
         request_id: "x" priority: PRIORITY_BATCH preview_interval: 5
         adapters {name: "ink" weight: 0.8 text_encoder_weight: -8
           schedule {from: 0 to: 0.4 weight: 1} schedule {from: 0.4 to: 1}}
         adapters {name: "b.c-d_e"
           sha256: "0123456789abcdef0123456789ABCDEF0123456789abcdef)"
      R"(0123456789abcdef"})",
      R"(steps: 5 adapters {name: "a" weight: nan})",
      R"(steps: 5 guidance_scale: inf width: 100)",
  };
  FuzzTarget target{texts,
                    {"prompt: ",
                     "steps: 5 ",
                     "width: 2048 ",
                     "height: 64 ",
                     "guidance_scale: ",
                     "nan ",
                     "inf ",
                     "-inf ",
                     "-0 ",
                     "1e-45 ",
                     "8.0000001 ",
                     "adapters {name: \"a\" ",
                     "weight: ",
                     "text_encoder_weight: ",
                     "schedule {from: ",
                     "to: ",
                     "sha256: \"",
                     "}",
                     "\"",
                     "priority: 3 ",
                     "preview_interval: ",
                     "4294967295 ",
                     "count: ",
                     "sampler: \"ddim\" ",
                     "request_id: \""},
                    size_t{20} << 10};
  for (const std::string& text : texts) {
    v1::GenerateImageRequest request;
    google::protobuf::TextFormat::ParseFromString(text, &request);
    target.seeds.push_back(request.SerializeAsString());
  }
  // Messages of texts as long, and as long to write down, as may be.
  v1::GenerateImageRequest request;
  request.set_steps(1);
  request.set_sampler(std::string(2000, '\x01'));
  target.seeds.push_back(request.SerializeAsString());
  return target;
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  static const bool silent = [] {
    google::protobuf::SetLogHandler(nullptr);
    return true;
  }();
  (void)silent;
  graft::v1::GenerateImageRequest request;
  if (graft::Read(input, request)) graft::CheckRequest(request);
  graft::v1::LoadAdapterRequest load;
  if (graft::Read(input, load)) graft::FromProto(load);
  return 0;
}

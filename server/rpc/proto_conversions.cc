#include "server/rpc/proto_conversions.h"

#include <google/protobuf/stubs/common.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/version.h"

namespace graft {
namespace {

constexpr size_t kMaxTextBytes = 16 << 10;  // of one echoed string

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  const int64_t nanos = absl::ToUnixNanos(time);
  timestamp.set_seconds(nanos / 1'000'000'000);
  timestamp.set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  return timestamp;
}

v1::GenerationTimings ToProto(const GenerationTimings& timings) {
  v1::GenerationTimings proto;
  proto.set_adapter_load_ms(absl::ToDoubleMilliseconds(timings.adapter_load));
  proto.set_queue_ms(absl::ToDoubleMilliseconds(timings.queue));
  proto.set_switch_ms(absl::ToDoubleMilliseconds(timings.adapter_switch));
  proto.set_text_encode_ms(absl::ToDoubleMilliseconds(timings.text_encode));
  proto.set_denoise_ms(absl::ToDoubleMilliseconds(timings.denoise));
  proto.set_vae_decode_ms(absl::ToDoubleMilliseconds(timings.vae_decode));
  proto.set_image_encode_ms(absl::ToDoubleMilliseconds(timings.image_encode));
  return proto;
}

// AppliedAdapter and ResidentAdapter have the same fields.
template <typename Message>
void Fill(const AppliedAdapter& adapter, Message& message) {
  message.set_name(adapter.name);
  message.set_sha256(adapter.sha256);
  message.set_weight(static_cast<float>(adapter.weight));
  message.set_text_encoder_weight(
      static_cast<float>(adapter.text_encoder_weight));
}

v1::WeightRange ToProto(const WeightRange& range) {
  v1::WeightRange proto;
  proto.set_from(static_cast<float>(range.from));
  proto.set_to(static_cast<float>(range.to));
  proto.set_weight(static_cast<float>(range.weight));
  proto.set_text_encoder_weight(static_cast<float>(range.text_encoder_weight));
  return proto;
}

v1::Adapter::State ToProto(AdapterState state) {
  switch (state) {
    case AdapterState::kLoading:
      return v1::Adapter::STATE_LOADING;
    case AdapterState::kActive:
      return v1::Adapter::STATE_ACTIVE;
    case AdapterState::kUnloading:
      return v1::Adapter::STATE_UNLOADING;
    case AdapterState::kGone:
      break;  // the store does not show these
  }
  return v1::Adapter::STATE_UNSPECIFIED;
}

v1::Adapter::Residency ToProto(AdapterResidency residency) {
  switch (residency) {
    case AdapterResidency::kDisk:
      return v1::Adapter::RESIDENCY_DISK;
    case AdapterResidency::kHost:
      return v1::Adapter::RESIDENCY_HOST;
    case AdapterResidency::kDevice:
      return v1::Adapter::RESIDENCY_DEVICE;
  }
  return v1::Adapter::RESIDENCY_UNSPECIFIED;
}

v1::KeyReport ToProto(const KeyReport& report) {
  v1::KeyReport proto;
  proto.set_matched(report.matched);
  proto.set_unmatched(report.unmatched);
  proto.set_not_applied(report.not_applied);
  proto.mutable_unmatched_keys()->Assign(report.unmatched_keys.begin(),
                                         report.unmatched_keys.end());
  proto.mutable_not_applied_keys()->Assign(report.not_applied_keys.begin(),
                                           report.not_applied_keys.end());
  return proto;
}

void Fill(const AdapterReport& report, v1::Adapter& proto) {
  proto.set_format(report.format);
  proto.mutable_algorithms()->Assign(report.algorithms.begin(),
                                     report.algorithms.end());
  proto.set_max_rank(report.max_rank);
  proto.set_unet_targets(report.unet_targets);
  proto.set_text_encoder_targets(report.text_encoder_targets);
  *proto.mutable_keys() = ToProto(report.keys);
  proto.mutable_notes()->Assign(report.notes.begin(), report.notes.end());
  for (const std::string& word : report.trigger_words) {
    proto.add_trigger_words(EscapeUntrusted(word, kMaxTextBytes));
  }
  proto.set_base_hint(EscapeUntrusted(report.base_hint, kMaxTextBytes));
  for (const auto& [key, value] : report.metadata) {
    (*proto.mutable_metadata())[EscapeUntrusted(key, kMaxTextBytes)] =
        EscapeUntrusted(value, kMaxTextBytes);
  }
}

v1::ServerLimits ToProto(const RequestLimits& limits) {
  v1::ServerLimits proto;
  proto.set_max_steps(static_cast<uint32_t>(limits.max_steps));
  proto.set_min_side(static_cast<uint32_t>(limits.min_side));
  proto.set_max_side(static_cast<uint32_t>(limits.max_side));
  proto.set_side_multiple(kSideMultiple);
  proto.set_max_count(static_cast<uint32_t>(limits.max_count));
  proto.set_max_adapters(static_cast<uint32_t>(limits.max_adapters));
  proto.set_max_adapter_weight(static_cast<float>(limits.max_adapter_weight));
  proto.set_max_guidance_scale(static_cast<float>(limits.max_guidance_scale));
  proto.set_max_prompt_bytes(static_cast<uint64_t>(limits.max_prompt_bytes));
  proto.set_max_message_bytes(static_cast<uint64_t>(limits.max_message_bytes));
  proto.set_max_adapter_file_bytes(
      static_cast<uint64_t>(limits.max_adapter_file_bytes));
  proto.set_max_adapter_header_bytes(
      static_cast<uint64_t>(limits.max_adapter_header_bytes));
  proto.set_max_queued_requests(
      static_cast<uint32_t>(limits.max_queued_requests));
  proto.set_max_schedule_ranges(kMaxScheduleRanges);
  proto.set_max_queued_work(static_cast<uint64_t>(limits.max_queued_work));
  return proto;
}

v1::GenerationDefaults ToProto(const GenerationDefaults& defaults) {
  v1::GenerationDefaults proto;
  proto.set_width(static_cast<uint32_t>(defaults.width));
  proto.set_height(static_cast<uint32_t>(defaults.height));
  proto.set_steps(static_cast<uint32_t>(defaults.steps));
  proto.set_guidance_scale(static_cast<float>(defaults.guidance_scale));
  proto.set_sampler(defaults.sampler);
  return proto;
}

void Fill(const EngineInfo& engine, v1::ServerInfo& proto) {
  proto.set_model(EscapeUntrusted(engine.model_name));
  proto.set_family(std::string(BaseFamilyName(engine.family)));
  proto.set_device(engine.device);
  proto.set_device_name(EscapeUntrusted(engine.device_name));
  proto.set_dtype(engine.dtype);
  proto.set_restore(engine.restore);
  proto.set_base_sha256(engine.base_sha256);
  proto.set_prediction_type(engine.prediction_type);
}

v1::AdapterTier ToTier(int64_t adapters, int64_t bytes, int64_t max_bytes) {
  v1::AdapterTier proto;
  proto.set_adapters(static_cast<uint32_t>(adapters));
  proto.set_bytes(bytes);
  proto.set_max_bytes(max_bytes);
  return proto;
}

// 3021012 is "3.21.12".
std::string ProtobufVersion() {
  return absl::StrCat(GOOGLE_PROTOBUF_VERSION / 1'000'000, ".",
                      GOOGLE_PROTOBUF_VERSION / 1'000 % 1'000, ".",
                      GOOGLE_PROTOBUF_VERSION % 1'000);
}

}  // namespace

v1::Finished ToProto(const GenerationSummary& summary) {
  v1::Finished proto;
  proto.mutable_seeds()->Assign(summary.seeds.begin(), summary.seeds.end());
  for (const AppliedAdapter& adapter : summary.adapters) {
    v1::AppliedAdapter& applied = *proto.add_adapters();
    Fill(adapter, applied);
    for (const WeightRange& range : adapter.schedule) {
      *applied.add_schedule() = ToProto(range);
    }
  }
  proto.set_base_sha256(summary.base_sha256);
  *proto.mutable_timings() = ToProto(summary.timings);
  proto.set_truncated_tokens(static_cast<uint32_t>(summary.truncated_tokens));
  return proto;
}

v1::Adapter ToProto(const AdapterInfo& info, BaseFamily family,
                    const std::vector<AppliedAdapter>& resident) {
  v1::Adapter proto;
  proto.set_name(info.name);
  proto.set_state(ToProto(info.state));
  proto.set_sha256(info.sha256);
  proto.set_base_model_family(std::string(BaseFamilyName(family)));
  proto.set_path(EscapeUntrusted(info.path, kMaxTextBytes));
  proto.set_size_bytes(info.size_bytes);
  proto.set_device_bytes(info.device_bytes);
  proto.set_residency(ToProto(info.residency));
  proto.set_pinned(info.pinned);
  proto.set_merged(std::any_of(resident.begin(), resident.end(),
                               [&info](const AppliedAdapter& merged) {
                                 return merged.sha256 == info.sha256;
                               }));
  Fill(info.report, proto);
  if (info.load_time != absl::InfinitePast()) {
    *proto.mutable_load_time() = ToTimestamp(info.load_time);
  }
  if (info.last_use_time != absl::InfinitePast()) {
    *proto.mutable_last_use_time() = ToTimestamp(info.last_use_time);
  }
  proto.set_use_count(info.use_count);
  proto.set_in_flight(info.in_flight);
  return proto;
}

AdapterStore::LoadRequest FromProto(const v1::LoadAdapterRequest& request) {
  return {.path = request.path(),
          .name = request.name(),
          .expected_sha256 = absl::AsciiStrToLower(request.sha256()),
          .component = request.component(),
          .allow_partial = request.allow_partial(),
          .validate_only = request.validate_only(),
          .allow_replace = request.allow_replace(),
          .pinned = request.pinned()};
}

v1::VerifyBaseWeightsResponse ToProto(const VerifyReport& report) {
  v1::VerifyBaseWeightsResponse proto;
  proto.set_parameters(report.parameters);
  proto.mutable_differing()->Assign(report.differing.begin(),
                                    report.differing.end());
  proto.mutable_unrepaired()->Assign(report.unrepaired.begin(),
                                     report.unrepaired.end());
  proto.set_repaired(!report.differing.empty() && report.unrepaired.empty());
  proto.set_duration_ms(absl::ToDoubleMilliseconds(report.duration));
  return proto;
}

v1::ServerInfo ToServerInfo(const Backend& backend) {
  v1::ServerInfo proto;
  Fill(backend.engine->info(), proto);
  auto& versions = *proto.mutable_versions();
  versions["graft"] = std::string(Version());
  versions["torch"] = backend.engine->info().torch_version;
  versions["grpc"] = grpc::Version();
  versions["protobuf"] = ProtobufVersion();
  for (const AppliedAdapter& adapter : backend.scheduler->resident()) {
    Fill(adapter, *proto.add_resident());
  }
  const MemoryUsage memory = backend.engine->memory();
  proto.mutable_memory()->set_base_bytes(memory.base_bytes);
  proto.mutable_memory()->set_restore_reserved_bytes(
      memory.restore_reserved_bytes);
  proto.mutable_memory()->set_restore_bytes(memory.restore_bytes);
  proto.mutable_memory()->set_adapter_bytes(memory.adapter_bytes);
  *proto.mutable_limits() = ToProto(backend.limits);
  for (const std::string& sampler : SamplerNames()) proto.add_samplers(sampler);
  *proto.mutable_defaults() = ToProto(backend.defaults);
  proto.set_batching(backend.batching);
  proto.set_max_batch_size(
      static_cast<uint32_t>(backend.scheduler->max_batch_size()));
  return proto;
}

v1::ServerLoad ToServerLoad(const Backend& backend, bool draining) {
  v1::ServerLoad proto;
  const SchedulerLoad load = backend.scheduler->load();
  proto.set_waiting_requests(static_cast<uint32_t>(load.waiting));
  proto.set_running_requests(static_cast<uint32_t>(load.running));
  proto.set_waiting_work(static_cast<uint64_t>(load.waiting_work));
  proto.set_estimated_wait_ms(absl::ToDoubleMilliseconds(load.backlog));
  proto.set_batch_size(static_cast<uint32_t>(load.batch_size));
  for (const AppliedAdapter& adapter : load.resident) {
    Fill(adapter, *proto.add_resident());
  }
  const AdapterStoreStats stats = backend.adapters->stats();
  *proto.mutable_host() =
      ToTier(stats.host_adapters, stats.host_bytes, stats.max_host_bytes);
  *proto.mutable_device() =
      ToTier(stats.device_adapters, stats.device_bytes, stats.max_device_bytes);
  proto.set_draining(draining);
  proto.set_loading_requests(
      static_cast<uint32_t>(backend.requests->load().requests));
  return proto;
}

}  // namespace graft

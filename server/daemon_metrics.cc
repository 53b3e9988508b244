#include "server/daemon_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/version.h"
#include "server/daemon_collector.h"

namespace graft {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
template <typename Metric>
using Family = prometheus::Family<Metric>;

// Of whole requests and their stages: milliseconds to twenty minutes.
const Buckets& RequestBuckets() {
  static const auto& buckets =
      *new Buckets{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,
                   5,     10,   30,    60,   120, 300,  600, 1200};
  return buckets;
}

// Of steps and switches: a tenth of a millisecond to a minute.
const Buckets& StepBuckets() {
  static const auto& buckets = *new Buckets{
      0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
      0.1,    0.25,    0.5,    1,     2.5,    5,     10,   30,    60};
  return buckets;
}

double Seconds(absl::Duration duration) {
  return absl::ToDoubleSeconds(duration);
}

// "NOT_FOUND": a code as gRPC writes it.
std::string CodeName(const absl::Status& status) {
  return status.ok() ? "OK" : absl::StatusCodeToString(status.code());
}

const char* StopReason(BatchStop stop) {
  switch (stop) {
    case BatchStop::kFull:
      return "full";
    case BatchStop::kQueueEmpty:
      return "queue_empty";
    case BatchStop::kIncompatible:
      return "incompatible";
    case BatchStop::kFairness:
      return "fairness";
  }
  return "";
}

// What a verification found, as a label.
const char* VerifyResult(const absl::StatusOr<VerifyReport>& report) {
  if (!report.ok()) return "error";
  if (report->differing.empty()) return "intact";
  return report->unrepaired.empty() ? "repaired" : "damaged";
}

}  // namespace

// The metrics that are kept, and who serves them.
struct DaemonMetrics::Instruments {
  Instruments() {
    build_info.Add({{"version", std::string(Version())}}).Set(1);
    intact.Set(1);
  }

  Family<prometheus::Counter>& AddCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
  }
  Family<prometheus::Gauge>& AddGauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
  }
  Family<prometheus::Histogram>& AddHistogram(const char* name,
                                              const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(
        *registry);
  }

  const std::shared_ptr<prometheus::Registry> registry =
      std::make_shared<prometheus::Registry>();
  BoundedNames adapter_names{kMaxAdapterNames};
  const std::shared_ptr<DaemonCollector> collector =
      std::make_shared<DaemonCollector>(&adapter_names);

  Family<prometheus::Counter>& requests = AddCounter(
      "graft_requests_total", "RPCs that have ended, by method and code");
  Family<prometheus::Histogram>& request_duration = AddHistogram(
      "graft_request_duration_seconds", "Of RPCs from arrival to end");
  prometheus::Histogram& queue_time =
      AddHistogram("graft_queue_time_seconds",
                   "Of generations from acceptance until the device began")
          .Add({}, RequestBuckets());
  Family<prometheus::Histogram>& stages =
      AddHistogram("graft_stage_duration_seconds",
                   "Of generations, summed over their images, by stage");
  prometheus::Counter& images =
      AddCounter("graft_images_total", "Images of generations that succeeded")
          .Add({});
  prometheus::Counter& steps =
      AddCounter("graft_steps_total", "Denoising steps, of each image").Add({});
  prometheus::Histogram& step_duration =
      AddHistogram("graft_denoise_step_duration_seconds",
                   "Of the device's steps, each of a whole batch")
          .Add({}, StepBuckets());
  const std::map<BatchStop, prometheus::Histogram*> batch_size = [this] {
    Family<prometheus::Histogram>& sizes = AddHistogram(
        "graft_batch_size",
        "Images in the device's steps, by why there were no more: full (as "
        "many as may be), queue_empty, incompatible (all others need other "
        "adapters or another size), fairness (others would wait for too long)");
    std::map<BatchStop, prometheus::Histogram*> by_stop;
    for (const BatchStop stop :
         {BatchStop::kFull, BatchStop::kQueueEmpty, BatchStop::kIncompatible,
          BatchStop::kFairness}) {
      by_stop[stop] = &sizes.Add({{"stop_reason", StopReason(stop)}},
                                 Buckets{1, 2, 4, 8, 16});
    }
    return by_stop;
  }();
  Family<prometheus::Counter>& switches = AddCounter(
      "graft_adapter_switches_total",
      "Before the device's steps: none (base stays), same (adapters stay), "
      "replace (other adapters), base (adapters removed)");
  // Of every step: not looked up each time.
  prometheus::Counter& none = switches.Add({{"kind", "none"}});
  prometheus::Counter& same = switches.Add({{"kind", "same"}});
  prometheus::Counter& replace = switches.Add({{"kind", "replace"}});
  prometheus::Counter& base = switches.Add({{"kind", "base"}});
  prometheus::Histogram& switch_duration =
      AddHistogram("graft_adapter_switch_duration_seconds",
                   "Of switches that changed the weights")
          .Add({}, StepBuckets());
  Family<prometheus::Counter>& adapter_requests = AddCounter(
      "graft_adapter_requests_total",
      "Generations that began, by each adapter of theirs; after the first 1000 "
      "names, adapter is _other");
  prometheus::Histogram& load_duration =
      AddHistogram("graft_adapter_load_duration_seconds",
                   "Of LoadAdapter and UploadAdapter")
          .Add({}, RequestBuckets());
  Family<prometheus::Counter>& unloads =
      AddCounter("graft_adapter_unloads_total", "Adapter unloads, by result");
  Family<prometheus::Counter>& verifications =
      AddCounter("graft_base_weights_verifications_total",
                 "Verifications of the base's weights, by result: intact, "
                 "repaired, damaged, error");
  prometheus::Counter& drifts =
      AddCounter("graft_base_weights_drifts_total",
                 "Times that the base's weights were found damaged")
          .Add({});
  prometheus::Gauge& intact =
      AddGauge("graft_base_weights_intact",
               "1, or 0 while the base's weights are known to be damaged")
          .Add({});
  Family<prometheus::Gauge>& build_info =
      AddGauge("graft_build_info", "The program; always 1");

  std::unique_ptr<prometheus::Exposer> exposer;
};

DaemonMetrics::DaemonMetrics()
    : instruments_(std::make_unique<Instruments>()) {}

DaemonMetrics::~DaemonMetrics() { StopListening(); }

absl::Status DaemonMetrics::Listen(const std::string& address) {
  // A connection that says nothing keeps a thread until the timeout: some of
  // them must not keep Prometheus out. prometheus-cpp reports by exceptions:
  // they end here.
  try {
    instruments_->exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", "8",
                                 "request_timeout_ms", "5000"});
  } catch (const std::exception& error) {
    return Error(
        ErrorReason::kInvalidField,
        absl::StrCat("--metrics_listen: cannot listen on \"",
                     EscapeUntrusted(address), "\", HOST:PORT: ", error.what()),
        {{"field", "metrics_listen"}});
  }
  instruments_->exposer->RegisterCollectable(instruments_->registry);
  instruments_->exposer->RegisterCollectable(instruments_->collector);
  return absl::OkStatus();
}

int DaemonMetrics::port() const {
  return instruments_->exposer->GetListeningPorts().front();
}

void DaemonMetrics::StopListening() {
  instruments_->exposer.reset();
  instruments_->collector->SetBackend(nullptr);
}

void DaemonMetrics::SetBackend(const Backend* backend) {
  instruments_->collector->SetBackend(backend);
}

RpcHooks DaemonMetrics::Count(RpcHooks hooks) {
  hooks.on_finish = [this, next = std::move(hooks.on_finish)](
                        const RpcContext& rpc, const absl::Status& status,
                        absl::Duration duration) {
    OnRpc(rpc, status, duration);
    next(rpc, status, duration);
  };
  hooks.on_generated = [this, next = std::move(hooks.on_generated)](
                           const absl::Status& status,
                           const GenerationSummary& summary) {
    OnGenerated(status, summary);
    next(status, summary);
  };
  return hooks;
}

void DaemonMetrics::OnRpc(const RpcContext& rpc, const absl::Status& status,
                          absl::Duration duration) {
  Instruments& m = *instruments_;
  m.requests.Add({{"method", rpc.method}, {"code", CodeName(status)}})
      .Increment();
  m.request_duration.Add({{"method", rpc.method}}, RequestBuckets())
      .Observe(Seconds(duration));
  if (rpc.method == "LoadAdapter" || rpc.method == "UploadAdapter") {
    m.load_duration.Observe(Seconds(duration));
  } else if (rpc.method == "UnloadAdapter") {
    m.unloads.Add({{"result", status.ok() ? "ok" : "error"}}).Increment();
  }
}

void DaemonMetrics::OnGenerated(const absl::Status& status,
                                const GenerationSummary& summary) {
  Instruments& m = *instruments_;
  for (const AppliedAdapter& adapter : summary.adapters) {
    m.adapter_requests.Add({{"adapter", m.adapter_names.Label(adapter.name)}})
        .Increment();
  }
  const GenerationTimings& timings = summary.timings;
  // Those that the queue was too long for tell most of it.
  if (status.ok() || (GetErrorReason(status) == ErrorReason::kDeadlineInQueue &&
                      timings.queue > absl::ZeroDuration())) {
    m.queue_time.Observe(Seconds(timings.queue));
  }
  if (!status.ok()) return;  // the times of a part say nothing
  m.images.Increment(static_cast<double>(summary.seeds.size()));
  const auto observe = [&m](const char* stage, absl::Duration duration) {
    m.stages.Add({{"stage", stage}}, RequestBuckets())
        .Observe(Seconds(duration));
  };
  observe("adapter_load", timings.adapter_load);
  observe("switch", timings.adapter_switch);
  observe("text_encode", timings.text_encode);
  observe("denoise", timings.denoise);
  observe("vae_decode", timings.vae_decode);
  observe("image_encode", timings.image_encode);
}

void DaemonMetrics::OnStep(const BatchReport& report) {
  Instruments& m = *instruments_;
  if (report.batch_size > 0) {  // nobody wanted it any more otherwise
    m.steps.Increment(report.batch_size);
    m.batch_size.at(report.stop)->Observe(report.batch_size);
    m.step_duration.Observe(Seconds(report.denoise));
  }
  const bool changed = report.adapter_switch.changed;
  if (report.batch_size == 0 && !changed) return;
  const bool merged = report.adapters_merged;
  (changed ? (merged ? m.replace : m.base) : (merged ? m.same : m.none))
      .Increment();
  if (changed) {
    m.switch_duration.Observe(Seconds(report.adapter_switch.duration));
  }
}

void DaemonMetrics::OnVerified(const absl::StatusOr<VerifyReport>& report) {
  instruments_->verifications.Add({{"result", VerifyResult(report)}})
      .Increment();
}

void DaemonMetrics::OnDrift(const absl::Status& status) {
  instruments_->intact.Set(status.ok() ? 1 : 0);
  if (!status.ok()) instruments_->drifts.Increment();
}

}  // namespace graft

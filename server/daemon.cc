#include "server/daemon.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/rpc/adapter_upload.h"

namespace graft {
namespace {

GenerationDefaults DefaultsFor(const EngineInfo& engine,
                               const DaemonOptions& options) {
  return {.width = engine.default_width,
          .height = engine.default_height,
          .steps = options.default_steps,
          .guidance_scale = options.default_guidance_scale,
          .sampler = engine.default_sampler};
}

void LogLoaded(const Engine& engine, absl::Duration duration) {
  const EngineInfo& info = engine.info();
  GRAFT_LOG(kInfo, "base model loaded",
            {{"model", info.model_name},
             {"family", std::string(BaseFamilyName(info.family))},
             {"device", info.device},
             {"device_name", info.device_name},
             {"dtype", info.dtype},
             {"base_sha256", info.base_sha256},
             {"base_bytes", absl::StrCat(engine.memory().base_bytes)},
             {"duration", absl::FormatDuration(duration)}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(
    const DaemonOptions& options, EngineFactory factory) {
  std::unique_ptr<Daemon> daemon(new Daemon(options, std::move(factory)));
  if (!options.metrics_listen.empty()) {
    GRAFT_RETURN_IF_ERROR(daemon->metrics_.Listen(options.metrics_listen));
  }
  if (!options.token_file.empty()) {
    GRAFT_ASSIGN_OR_RETURN(daemon->authenticator_,
                           Authenticator::Create(options.token_file));
    daemon->hooks_ = WithAuthentication(std::move(daemon->hooks_),
                                        daemon->authenticator_.get());
  } else if (!options.transport.tls.client_ca.empty()) {
    daemon->hooks_ = WithCertificates(std::move(daemon->hooks_));
  }
  if (options.transport.tls.enabled() && options.token_file.empty() &&
      options.transport.tls.client_ca.empty()) {
    GRAFT_LOG(kWarning,
              "TLS encrypts, and anybody who reaches the port may call "
              "everything, uploads and Drain included; give --token_file or "
              "--tls_client_ca to admit only whom you know");
  }
  const RpcEnvironment environment{
      .hooks = &daemon->hooks_,
      .clock = &daemon->clock_,
      .state = &daemon->state_,
      .drain = [raw = daemon.get()] { raw->BeginDrain(); },
      .write_timeout = options.transport.write_timeout,
      .max_finished_bytes = options.max_finished_bytes};
  GRAFT_ASSIGN_OR_RETURN(daemon->server_,
                         GrpcServer::Start(options.transport, environment));
  GRAFT_LOG(kInfo, "port open", {{"address", daemon->address()}});
  daemon->load_thread_ = std::thread([raw = daemon.get()] { raw->Load(); });
  return daemon;
}

Daemon::Daemon(const DaemonOptions& options, EngineFactory factory)
    : options_(options),
      factory_(std::move(factory)),
      source_({.directory = options.adapter_dir,
               .max_file_bytes = options.limits.max_adapter_file_bytes}),
      encoder_(options.encoder_threads, Wakeup::kPolitely) {}

Daemon::~Daemon() {
  if (server_ == nullptr) return;  // never started
  const absl::Time end = clock_.Now() + options_.exit_timeout;
  const auto left = [&] {
    return std::max(absl::ZeroDuration(), end - clock_.Now());
  };
  RequestStop();
  state_.SetStopping();
  server_->StopServing();
  if (load_thread_.joinable()) load_thread_.join();
  if (scheduler_ != nullptr) scheduler_->Drain(left());
  // Loads that were admitted finish, too, and uploads that are complete, and
  // images are read to their end, unless the time is over: then gRPC cancels
  // their calls.
  if (loader_ != nullptr) loader_->WaitUntilIdle(left());
  if (committer_ != nullptr) committer_->WaitUntilIdle(left());
  server_->WaitForReaders(left());
  server_->Shutdown(options_.transport.last_words);
  // Requests that wait for adapters are refused, and tell the service, which
  // must still be there.
  requests_.reset();
  loader_.reset();
  metrics_.StopListening();
  scheduler_.reset();  // its thread may still have something to tell health
  GRAFT_LOG(kInfo, "stopped");
}

absl::Status Daemon::WaitUntilServing() {
  const auto decided = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return loaded_.has_value() || stop_requested_;
  };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&decided));
  if (stop_requested_) {
    return Error(ErrorReason::kDraining, "asked to stop while starting");
  }
  return *loaded_;
}

void Daemon::Reload() {
  if (authenticator_ == nullptr) return;
  const absl::Status status = authenticator_->Reload();
  if (status.ok()) {
    GRAFT_LOG(kInfo, "token file read again");
  } else {
    GRAFT_LOG(kError, "the former tokens stay valid",
              {{"message", std::string(status.message())}});
  }
}

void Daemon::RequestStop() {
  absl::MutexLock lock(&mu_);
  stop_requested_ = true;
}

absl::Status Daemon::WaitForStop() {
  const auto over = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return stop_requested_ || !failure_.ok();
  };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&over));
  return failure_;
}

void Daemon::Load() {
  const absl::Time start = clock_.Now();
  const absl::Status status = LoadBackend();
  if (status.ok()) {
    LogLoaded(*engine_, clock_.Now() - start);
    state_.SetServing(&backend_);
    server_->SetServing(true);
  }
  {
    absl::MutexLock lock(&mu_);
    loaded_ = status;
  }
  if (status.ok() && options_.adapter_poll > absl::ZeroDuration()) {
    PollAdapters();
  }
}

void Daemon::PollAdapters() {
  while (!AwaitStop(options_.adapter_poll)) {
    const AdapterStore::PollReport report =
        store_->Poll([this] { return AwaitStop(absl::ZeroDuration()); });
    for (const std::string& name : report.replaced) {
      GRAFT_LOG(kInfo, "adapter's file changed", {{"adapter", name}});
    }
    for (const std::string& name : report.unloaded) {
      GRAFT_LOG(kInfo, "adapter's file is gone", {{"adapter", name}});
    }
    for (const auto& [name, status] : report.failures) {
      GRAFT_LOG(
          kWarning, "adapter's file cannot be loaded",
          {{"adapter", name}, {"message", std::string(status.message())}});
    }
  }
}

bool Daemon::AwaitStop(absl::Duration timeout) {
  const auto stopping = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return stop_requested_;
  };
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&stopping), timeout);
}

absl::Status Daemon::LoadBackend() {
  if (!options_.adapter_dir.empty()) {
    AdapterUpload::RemoveLeftovers(options_.adapter_dir);
  }
  GRAFT_ASSIGN_OR_RETURN(engine_, factory_(options_.engine));
  GRAFT_RETURN_IF_ERROR(ValidateDefaultSize(engine_->info(), options_.limits));
  AdapterStore::Options store_options;
  store_options.file_limits.max_header_bytes =
      static_cast<size_t>(options_.limits.max_adapter_header_bytes);
  store_options.max_host_bytes = options_.max_adapter_host_bytes;
  store_options.max_device_bytes = options_.max_adapter_device_bytes;
  store_options.autoload = options_.autoload;
  GRAFT_ASSIGN_OR_RETURN(
      store_, AdapterStore::Create(&source_, engine_.get(), store_options));
  scheduler_ = std::make_unique<RequestScheduler>(
      engine_.get(), &encoder_, &clock_,
      RequestScheduler::Options{
          .batching = options_.batching,
          .max_batch_size = options_.max_batch_size,
          .max_queued_requests = options_.limits.max_queued_requests,
          .max_queued_work = options_.limits.max_queued_work,
          .progress_interval = options_.progress_interval,
          .on_drift = [this](const absl::Status& status) { OnDrift(status); },
          .on_verified =
              [this](const absl::StatusOr<VerifyReport>& report) {
                metrics_.OnVerified(report);
              },
          .on_device_lost =
              [this](const absl::Status& status) { OnDeviceLost(status); },
          .make_room = [this] { return store_->EvictFromDevice(); },
          .on_step =
              [this](const BatchReport& report) { metrics_.OnStep(report); }});
  owned_scheduler_ = scheduler_.get();
  loader_ = std::make_unique<ThreadPoolExecutor>(options_.loader_threads,
                                                 Wakeup::kPolitely);
  committer_ = std::make_unique<ThreadPoolExecutor>(1, Wakeup::kPolitely);
  requests_ = std::make_unique<RequestLoader>(
      store_.get(), scheduler_.get(), loader_.get(), &clock_,
      RequestLoader::Options{
          .autoload = options_.autoload,
          .threads = options_.loader_threads,
          .max_waiting = options_.limits.max_queued_requests});
  backend_ = {.engine = engine_.get(),
              .adapters = store_.get(),
              .scheduler = scheduler_.get(),
              .requests = requests_.get(),
              .loader = loader_.get(),
              .committer = committer_.get(),
              .adapter_dir = options_.adapter_dir,
              .limits = options_.limits,
              .defaults = DefaultsFor(engine_->info(), options_),
              .batching = options_.batching};
  metrics_.SetBackend(&backend_);
  return absl::OkStatus();
}

void Daemon::BeginDrain() {
  if (!state_.draining()) GRAFT_LOG(kInfo, "draining; the process stays");
  state_.SetDraining();
  server_->StopServing();
  scheduler_->StopAdmitting();
}

void Daemon::OnDrift(const absl::Status& status) {
  metrics_.OnDrift(status);
  server_->SetServing(status.ok());
  if (status.ok()) {
    GRAFT_LOG(kInfo, "the base's weights are intact again");
    return;
  }
  GRAFT_LOG(kError, "the base's weights are damaged",
            {{"message", std::string(status.message())}});
  if (repairing_) return;
  repairing_ = true;
  owned_scheduler_->VerifyBaseWeights(
      /*repair=*/true, [this](const absl::StatusOr<VerifyReport>& report) {
        repairing_ = false;
        OnRepaired(report);
      });
}

void Daemon::OnDeviceLost(const absl::Status& status) {
  GRAFT_LOG(kError, "the device is lost",
            {{"message", std::string(status.message())}});
  server_->SetServing(false);
  absl::MutexLock lock(&mu_);
  failure_ = status;
}

void Daemon::OnRepaired(const absl::StatusOr<VerifyReport>& report) {
  if (report.ok() && report->unrepaired.empty()) return;
  const std::string why = report.ok() ? absl::StrJoin(report->unrepaired, ", ")
                                      : std::string(report.status().message());
  absl::MutexLock lock(&mu_);
  failure_ = Error(
      ErrorReason::kBaseWeightsDrift,
      absl::StrCat("the base's weights could not be repaired from the model's "
                   "files: ",
                   why));
}

}  // namespace graft

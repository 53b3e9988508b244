#include "server/daemon.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// For the last messages of requests that are over to reach their clients.
constexpr absl::Duration kLastWordsGrace = absl::Seconds(2);

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
  const RpcEnvironment environment{
      .hooks = &daemon->hooks_,
      .clock = &daemon->clock_,
      .state = &daemon->state_,
      .write_timeout = options.transport.write_timeout};
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
      encoder_(options.encoder_threads) {}

Daemon::~Daemon() {
  if (server_ == nullptr) return;  // never started
  RequestStop();
  state_.SetDraining();
  if (load_thread_.joinable()) load_thread_.join();
  server_->SetServing(false);
  if (scheduler_ != nullptr) scheduler_->Drain(options_.exit_timeout);
  server_->Shutdown(kLastWordsGrace);
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

void Daemon::RequestStop() {
  absl::MutexLock lock(&mu_);
  stop_requested_ = true;
}

void Daemon::WaitForStop() {
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&stop_requested_));
}

void Daemon::Load() {
  const absl::Time start = clock_.Now();
  const absl::Status status = LoadBackend();
  if (status.ok()) {
    LogLoaded(*engine_, clock_.Now() - start);
    state_.SetServing(&backend_);
    server_->SetServing(true);
  }
  absl::MutexLock lock(&mu_);
  loaded_ = status;
}

absl::Status Daemon::LoadBackend() {
  GRAFT_ASSIGN_OR_RETURN(engine_, factory_(options_.engine));
  AdapterStore::Options store_options;
  store_options.file_limits.max_header_bytes =
      static_cast<size_t>(options_.limits.max_adapter_header_bytes);
  GRAFT_ASSIGN_OR_RETURN(
      store_, AdapterStore::Create(&source_, engine_.get(), store_options));
  scheduler_ = std::make_unique<RequestScheduler>(
      engine_.get(), &encoder_, &clock_,
      RequestScheduler::Options{.max_queued_requests =
                                    options_.limits.max_queued_requests});
  loader_ = std::make_unique<ThreadPoolExecutor>(options_.loader_threads);
  backend_ = {.engine = engine_.get(),
              .adapters = store_.get(),
              .scheduler = scheduler_.get(),
              .loader = loader_.get(),
              .limits = options_.limits,
              .defaults = DefaultsFor(engine_->info(), options_)};
  return absl::OkStatus();
}

}  // namespace graft

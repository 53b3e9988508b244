#include "server/rpc/generation_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/unary_call.h"
#include "server/scheduling/generation_task.h"
#include "server/scheduling/task_liveness.h"

namespace graft {
namespace {

// "ink=0.8@0-0.4", for the log.
std::string DescribeRange(absl::string_view name, const WeightRange& range) {
  return absl::StrCat(name, "=", range.weight, "@", range.from, "-", range.to);
}

// "ink=0.8,night=1", for the log.
std::string DescribeAdapters(const std::vector<AdapterChoice>& adapters) {
  return absl::StrJoin(
      adapters, ",", [](std::string* out, const AdapterChoice& adapter) {
        if (adapter.schedule.empty()) {
          absl::StrAppend(out, adapter.name, "=", adapter.weight);
          return;
        }
        absl::StrAppend(
            out,
            absl::StrJoin(adapter.schedule, ",",
                          [&](std::string* text, const WeightRange& range) {
                            text->append(DescribeRange(adapter.name, range));
                          }));
      });
}

// Adds what `choice` has named to `adapters`.
absl::Status AddAdapter(const AdapterChoice& choice, AdapterHandle handle,
                        std::vector<RequestedAdapter>& adapters) {
  for (const RequestedAdapter& other : adapters) {
    if (other.handle.sha256() == handle.sha256()) {
      return InvalidField(
          "adapters",
          absl::StrCat("adapters \"", other.handle.name(), "\" and \"",
                       choice.name, "\" have the same content; name one"));
    }
  }
  adapters.push_back({std::move(handle), choice.weight,
                      choice.text_encoder_weight, choice.schedule});
  return absl::OkStatus();
}

// Pins what the request names: from here on its content is fixed.
absl::StatusOr<std::vector<RequestedAdapter>> AcquireAdapters(
    const std::vector<AdapterChoice>& choices, AdapterStore& store) {
  std::vector<RequestedAdapter> adapters;
  for (const AdapterChoice& choice : choices) {
    GRAFT_ASSIGN_OR_RETURN(AdapterHandle handle,
                           store.Acquire(choice.name, choice.sha256));
    GRAFT_RETURN_IF_ERROR(AddAdapter(choice, std::move(handle), adapters));
  }
  return adapters;
}

// A request whose adapters are not all where the device needs them yet.
bool MustWait(const absl::StatusOr<std::vector<RequestedAdapter>>& adapters,
              bool autoload) {
  if (!adapters.ok()) {
    return autoload &&
           GetErrorReason(adapters.status()) == ErrorReason::kAdapterNotFound;
  }
  return std::any_of(adapters->begin(), adapters->end(),
                     [](const RequestedAdapter& adapter) {
                       return !adapter.handle.resident();
                     });
}

// What the scheduler is to do, but for the adapters. It reports to
// `generation`.
std::unique_ptr<GenerationTask> MakeTask(
    const GenerationRequest& request, const RpcContext& rpc,
    const std::shared_ptr<SharedGeneration>& generation) {
  auto task = std::make_unique<GenerationTask>();
  task->params = request.params;
  task->count = request.count;
  task->preview_interval = request.preview_interval;
  task->priority = request.priority;
  task->observer = generation;
  task->cancelled = generation->cancel_flag();
  task->deadline = rpc.deadline;
  task->request_id = rpc.request_id;
  task->traceparent = rpc.traceparent;
  task->tenant = rpc.tenant;
  return task;
}

// A request waits so long at most for room on the device for its adapters. One
// of those that wait looks so often, in turn, as many must not keep the
// loader's threads busy; but each often enough to see that it is cancelled.
constexpr absl::Duration kRoomPatience = absl::Seconds(30);
constexpr absl::Duration kRoomInterval = absl::Milliseconds(20);
constexpr absl::Duration kMaxRoomInterval = absl::Milliseconds(500);

// Whether there may be room for an adapter at another time.
bool IsFullForNow(const absl::Status& status) {
  return GetErrorReason(status) == ErrorReason::kAdapterCacheFull &&
         GetRetryDelay(status).has_value();
}

// Counts the requests that wait for the loader.
class LoaderPlace {
 public:
  explicit LoaderPlace(std::shared_ptr<std::atomic<int>> waiting)
      : waiting_(std::move(waiting)), number_(++*waiting_) {}
  ~LoaderPlace() { --*waiting_; }
  LoaderPlace(const LoaderPlace&) = delete;
  LoaderPlace& operator=(const LoaderPlace&) = delete;
  int number() const { return number_; }
  int all() const { return *waiting_; }

 private:
  const std::shared_ptr<std::atomic<int>> waiting_;
  const int number_;
};

// A request whose adapters are being loaded.
struct LoadingRequest {
  const Backend* backend = nullptr;
  const Clock* clock = nullptr;
  absl::Time began;
  std::vector<AdapterChoice> choices;
  // With those of its adapters that are there already.
  std::unique_ptr<GenerationTask> task;
  std::shared_ptr<SharedGeneration> generation;  // hears of errors
  std::unique_ptr<LoaderPlace> place;
  // It was the only one that waited for room on the device, and had what was
  // merged last give way.
  bool was_alone = false;
};

void LoadNextOrSubmit(const std::shared_ptr<LoadingRequest>& loading);

// Whether it is worth while to wait for room on the device. A request that is
// alone has only what was merged last to wait for.
bool MayWaitForRoom(LoadingRequest& loading, const absl::Status& status) {
  if (!IsFullForNow(status) ||
      loading.clock->Now() - loading.began >= kRoomPatience) {
    return false;
  }
  RequestScheduler& scheduler = *loading.backend->scheduler;
  if (!scheduler.admitting()) return false;
  if (loading.place->all() > 1 || scheduler.load().unfinished > 0) return true;
  if (std::exchange(loading.was_alone, true)) return false;
  scheduler.LetGoWhileIdle();
  return true;
}

// Begins anew after a while. What it has pinned goes: two requests with several
// adapters could else each wait for what the other has.
void WaitForRoom(const std::shared_ptr<LoadingRequest>& loading) {
  struct Pause {
    std::shared_ptr<LoadingRequest> loading;
    grpc::Alarm alarm;
  };
  loading->task->adapters.clear();
  const auto pause = std::make_shared<Pause>();
  pause->loading = loading;
  const absl::Duration interval =
      std::min(kMaxRoomInterval, kRoomInterval * loading->place->all());
  // The callback, which comes once, keeps the alarm that owns it until then.
  pause->alarm.Set(
      absl::ToChronoTime(absl::Now() + interval),
      [kept = std::make_shared<std::shared_ptr<Pause>>(pause)](bool) {
        const std::shared_ptr<Pause> over = std::move(*kept);
        const std::shared_ptr<LoadingRequest> again = over->loading;
        again->backend->loader->Run([again] { LoadNextOrSubmit(again); });
      });
}

// Takes the next adapter, or the error instead of it.
void OnAcquired(const std::shared_ptr<LoadingRequest>& loading,
                absl::StatusOr<AdapterHandle> handle) {
  std::vector<RequestedAdapter>& adapters = loading->task->adapters;
  absl::Status status = handle.status();
  if (status.ok()) {
    status = AddAdapter(loading->choices[adapters.size()], *std::move(handle),
                        adapters);
  }
  if (status.ok()) {
    LoadNextOrSubmit(loading);
    return;
  }
  if (MayWaitForRoom(*loading, status)) {
    WaitForRoom(loading);
    return;
  }
  // What it has pinned goes before anybody hears of the end.
  loading->task.reset();
  loading->place.reset();
  loading->generation->OnDone(status, {});
}

// Reads and prepares what the request still needs, then submits it, unless
// nobody wants it any more. Runs on the loader, and leaves its threads to
// others while another request loads the same.
void LoadNextOrSubmit(const std::shared_ptr<LoadingRequest>& loading) {
  const absl::Status wanted =
      CheckTaskLiveness(*loading->task, loading->clock->Now(), {});
  const size_t next = loading->task->adapters.size();
  if (!wanted.ok()) {
    OnAcquired(loading, wanted);
  } else if (next < loading->choices.size()) {
    const AdapterChoice& choice = loading->choices[next];
    loading->backend->adapters->AcquireResident(
        choice.name, choice.sha256, loading->backend->loader,
        [loading](absl::StatusOr<AdapterHandle> handle) {
          OnAcquired(loading, std::move(handle));
        });
  } else {
    loading->task->adapter_load = loading->clock->Now() - loading->began;
    const absl::Status submitted =
        loading->backend->scheduler->Submit(std::move(loading->task));
    loading->place.reset();
    if (!submitted.ok()) loading->generation->OnDone(submitted, {});
  }
}

}  // namespace

absl::Status GenerationServiceImpl::Start(
    const grpc::CallbackServerContext& context,
    const v1::GenerateImageRequest& request, GenerateReactor& reactor) {
  GRAFT_RETURN_IF_ERROR(reactor.call().Admit(context));
  GRAFT_ASSIGN_OR_RETURN(const Backend* const backend,
                         environment_.state->Get());
  absl::BitGen fresh_seeds;  // std::random_device takes twenty microseconds
  GRAFT_ASSIGN_OR_RETURN(
      GenerationRequest checked,
      ValidateGenerateImageRequest(request, backend->limits, backend->defaults,
                                   absl::Uniform<uint32_t>(fresh_seeds)));
  RpcContext& rpc = reactor.call().context();
  rpc.adapters = DescribeAdapters(checked.adapters);
  GRAFT_ASSIGN_OR_RETURN(GenerationRegistry::Admission admission,
                         registry_.Admit(rpc.tenant, rpc.request_id, request,
                                         checked.params.seed));
  const std::shared_ptr<SharedGeneration>& generation = admission.generation;
  reactor.Listen(generation, std::move(admission.place));
  if (admission.is_new) {
    const absl::Status submitted =
        SubmitOrLoad(*backend, std::move(checked), rpc, generation);
    // Others may have joined meanwhile: all of them hear of it.
    if (!submitted.ok()) generation->OnDone(submitted, {});
  }
  return absl::OkStatus();
}

absl::Status GenerationServiceImpl::SubmitOrLoad(
    const Backend& backend, GenerationRequest request, const RpcContext& rpc,
    const std::shared_ptr<SharedGeneration>& generation) {
  absl::StatusOr<std::vector<RequestedAdapter>> adapters =
      AcquireAdapters(request.adapters, *backend.adapters);
  if (!MustWait(adapters, backend.autoload)) {
    GRAFT_RETURN_IF_ERROR(adapters.status());
    auto task = MakeTask(request, rpc, generation);
    task->adapters = *std::move(adapters);
    return backend.scheduler->Submit(std::move(task));
  }
  auto place = std::make_unique<LoaderPlace>(waiting_for_loader_);
  if (place->number() > backend.limits.max_queued_requests) {
    return WithRetryDelay(
        Error(ErrorReason::kQueueFull,
              "too many requests wait for adapters to be loaded; try again "
              "later"),
        absl::Seconds(1));
  }
  const auto loading = std::make_shared<LoadingRequest>(
      LoadingRequest{.backend = &backend,
                     .clock = environment_.clock,
                     .began = environment_.clock->Now(),
                     .choices = std::move(request.adapters),
                     .task = MakeTask(request, rpc, generation),
                     .generation = generation,
                     .place = std::move(place)});
  backend.loader->Run([loading] { LoadNextOrSubmit(loading); });
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::GenerateImageResponse>*
GenerationServiceImpl::GenerateImage(grpc::CallbackServerContext* context,
                                     const v1::GenerateImageRequest* request) {
  const std::shared_ptr<GenerateReactor> reactor =
      GenerateReactor::Create(environment_, context, *request, streams_);
  const absl::Status started = Start(*context, *request, *reactor);
  if (!started.ok()) reactor->Fail(started);
  return reactor.get();
}

grpc::ServerUnaryReactor* GenerationServiceImpl::CancelGeneration(
    grpc::CallbackServerContext* context,
    const v1::CancelGenerationRequest* request,
    v1::CancelGenerationResponse* response) {
  return StartUnaryCall(
      environment_, context, "CancelGeneration", request->request_id(),
      [this, request, response](const Backend&, const RpcContext& rpc,
                                const UnaryDone& done) {
        if (request->request_id().empty()) {
          done(InvalidField("request_id",
                            "must be the id of the request to cancel"));
          return;
        }
        response->set_was_running(
            registry_.Cancel(rpc.tenant, request->request_id()));
        done(absl::OkStatus());
      },
      WhileDraining::kAnswer);
}

}  // namespace graft

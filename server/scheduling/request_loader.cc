#include "server/scheduling/request_loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/scheduling/task_liveness.h"

namespace graft {
namespace {

// How often the first in the line looks whether there is room: a look takes
// microseconds, and the device may be idle until it succeeds.
constexpr absl::Duration kLookInterval = absl::Milliseconds(5);

// What refused clients are told to wait.
constexpr absl::Duration kRetryDelay = absl::Seconds(1);

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

bool AreResident(const std::vector<RequestedAdapter>& adapters) {
  return std::all_of(adapters.begin(), adapters.end(),
                     [](const RequestedAdapter& adapter) {
                       return adapter.handle.resident();
                     });
}

// Where an error says how many bytes there must be room for.
int64_t WantedBytes(const absl::Status& full) {
  int64_t bytes = 0;
  for (const auto& [key, value] : GetErrorMetadata(full)) {
    if (key == "wanted_bytes" && !absl::SimpleAtoi(value, &bytes)) bytes = 0;
  }
  return bytes;
}

absl::Status DrainingError() {
  return WithRetryDelay(
      Error(ErrorReason::kDraining, "the server is shutting down"),
      kRetryDelay);
}

}  // namespace

RequestLoader::RequestLoader(AdapterStore* store, RequestScheduler* scheduler,
                             Executor* executor, const Clock* clock,
                             const Options& options)
    : store_(store),
      scheduler_(scheduler),
      executor_(executor),
      clock_(clock),
      options_(options),
      room_thread_([this] { RunRoomThread(); }) {}

RequestLoader::~RequestLoader() {
  scheduler_->StopAdmitting();
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  room_thread_.join();
  const auto idle = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return waiting_ == 0 && loading_ == 0 && !letting_go_;
  };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&idle));
}

absl::Status RequestLoader::Submit(std::unique_ptr<GenerationTask> task,
                                   std::vector<AdapterChoice> choices) {
  absl::StatusOr<std::vector<RequestedAdapter>> adapters = Acquire(choices);
  const bool missing =
      GetErrorReason(adapters.status()) == ErrorReason::kAdapterNotFound;
  if (!adapters.ok() && !(missing && options_.autoload)) {
    return adapters.status();
  }
  auto waiter = std::make_shared<Waiter>();
  waiter->began = clock_->Now();
  waiter->task = std::move(task);
  waiter->choices = std::move(choices);
  const bool resident = adapters.ok() && AreResident(*adapters);
  bool may_go = false;
  bool begins = false;
  {
    absl::MutexLock lock(&mu_);
    may_go = resident && !MustGiveWay(waiter->choices);
    if (!may_go) {
      GRAFT_RETURN_IF_ERROR(Count(*waiter));
      if (!resident) {
        to_load_.Push(waiter->task->tenant, waiter);
        begins = loading_ < options_.threads;
        if (begins) ++loading_;
      }
    }
  }
  if (may_go) {
    waiter->task->adapters = *std::move(adapters);
    for (RequestedAdapter& adapter : waiter->task->adapters) {
      adapter.handle.CountUse();
    }
    return scheduler_->Submit(std::move(waiter->task));
  }
  if (begins) executor_->Run([this] { RunLoad(); });
  if (resident) {
    adapters = std::vector<RequestedAdapter>();
    WaitForRoom(waiter);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<RequestedAdapter>> RequestLoader::Acquire(
    const std::vector<AdapterChoice>& choices) {
  std::vector<RequestedAdapter> adapters;
  for (const AdapterChoice& choice : choices) {
    GRAFT_ASSIGN_OR_RETURN(AdapterHandle handle,
                           store_->Acquire(choice.name, choice.sha256));
    GRAFT_RETURN_IF_ERROR(AddAdapter(choice, std::move(handle), adapters));
  }
  return adapters;
}

bool RequestLoader::MustGiveWay(
    const std::vector<AdapterChoice>& choices) const {
  if (first_ == nullptr ||
      clock_->Now() - first_->full_since < options_.ageing) {
    return false;
  }
  const std::vector<AdapterChoice>& wanted = first_->choices;
  return std::any_of(
      choices.begin(), choices.end(), [&wanted](const AdapterChoice& choice) {
        return std::none_of(wanted.begin(), wanted.end(),
                            [&choice](const AdapterChoice& other) {
                              return other.name == choice.name;
                            });
      });
}

RequestLoader::Load RequestLoader::load() const {
  absl::MutexLock lock(&mu_);
  Load load;
  load.requests = waiting_;
  for (const auto& [name, count] : of_adapter_) load.adapters.push_back(name);
  return load;
}

// ---- Counts -----------------------------------------------------------------

absl::Status RequestLoader::Count(const Waiter& waiter) {
  int& of_tenant = of_tenant_[waiter.task->tenant];
  if (waiting_ >= options_.max_waiting && of_tenant > 0) {
    return WithRetryDelay(
        Error(ErrorReason::kQueueFull,
              "too many requests wait for adapters to be loaded; try again "
              "later"),
        kRetryDelay);
  }
  ++waiting_;
  ++of_tenant;
  for (const AdapterChoice& choice : waiter.choices) {
    ++of_adapter_[choice.name];
  }
  return absl::OkStatus();
}

void RequestLoader::Uncount(const std::string& tenant,
                            const std::vector<AdapterChoice>& choices) {
  const auto subtract = [](std::map<std::string, int>& counts,
                           const std::string& key) {
    const auto found = counts.find(key);
    if (--found->second == 0) counts.erase(found);
  };
  absl::MutexLock lock(&mu_);
  --waiting_;
  subtract(of_tenant_, tenant);
  for (const AdapterChoice& choice : choices) {
    subtract(of_adapter_, choice.name);
  }
}

absl::Status RequestLoader::CheckWanted(const Waiter& waiter) const {
  GRAFT_RETURN_IF_ERROR(CheckTaskLiveness(*waiter.task, clock_->Now(), {}));
  return scheduler_->admitting() ? absl::OkStatus() : DrainingError();
}

// ---- Reading and preparing --------------------------------------------------

void RequestLoader::RunLoad() {
  WaiterPtr next;
  {
    absl::MutexLock lock(&mu_);
    if (!to_load_.empty()) next = to_load_.Pop();
  }
  if (next != nullptr) LoadNext(next);
  {
    absl::MutexLock lock(&mu_);
    if (to_load_.empty()) {
      --loading_;
      return;
    }
  }
  // One at a time: others have jobs for the executor, too.
  executor_->Run([this] { RunLoad(); });
}

void RequestLoader::LoadNext(const WaiterPtr& waiter) {
  const absl::Status wanted = CheckWanted(*waiter);
  if (!wanted.ok()) {
    Fail(*waiter, wanted);
    return;
  }
  const size_t next = waiter->task->adapters.size();
  if (next < waiter->choices.size()) {
    const AdapterChoice& choice = waiter->choices[next];
    store_->AcquireResident(
        choice.name, choice.sha256, executor_,
        [this, waiter](absl::StatusOr<AdapterHandle> handle) {
          OnLoaded(waiter, std::move(handle));
        });
    return;
  }
  bool others_wait = false;
  {
    absl::MutexLock lock(&mu_);
    others_wait = first_ != nullptr;
  }
  if (others_wait) {
    // They were here before, and want the room that this has found.
    waiter->task->adapters.clear();
    WaitForRoom(waiter);
  } else {
    HandOver(*waiter);
  }
}

void RequestLoader::OnLoaded(const WaiterPtr& waiter,
                             absl::StatusOr<AdapterHandle> handle) {
  std::vector<RequestedAdapter>& adapters = waiter->task->adapters;
  absl::Status status = handle.status();
  if (status.ok()) {
    status = AddAdapter(waiter->choices[adapters.size()], *std::move(handle),
                        adapters);
  }
  if (status.ok()) {
    LoadNext(waiter);
  } else if (IsDeviceFullForNow(status)) {
    adapters.clear();
    WaitForRoom(waiter);
  } else {
    Fail(*waiter, status);
  }
}

// ---- Waiting for room -------------------------------------------------------

void RequestLoader::WaitForRoom(const WaiterPtr& waiter) {
  waiter->full_since = clock_->Now();
  absl::MutexLock lock(&mu_);
  for_room_.Push(waiter->task->tenant, waiter);
  ChooseFirst();
}

void RequestLoader::ChooseFirst() {
  if (first_ == nullptr && !for_room_.empty()) first_ = for_room_.Pop();
}

void RequestLoader::RunRoomThread() {
  while (AwaitWaiters()) {
    EndUnwanted();
    if (!ServeFirst()) Pause();
  }
}

bool RequestLoader::AwaitWaiters() {
  const auto needed = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return first_ != nullptr || (stopping_ && waiting_ == 0);
  };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&needed));
  return first_ != nullptr;
}

void RequestLoader::EndUnwanted() {
  const absl::Status full = WithRetryDelay(
      Error(ErrorReason::kAdapterCacheFull,
            "the request has found no room on the device for its adapters "
            "beside those that others use; try again later"),
      kRetryDelay);
  std::vector<WaiterPtr> ended;
  const auto over = [&](const WaiterPtr& waiter) {
    return !CheckPatience(*waiter, full).ok();
  };
  {
    absl::MutexLock lock(&mu_);
    ended = for_room_.TakeIf(over);
  }
  for (const WaiterPtr& waiter : ended) {
    Fail(*waiter, CheckPatience(*waiter, full));
  }
}

absl::Status RequestLoader::CheckPatience(const Waiter& waiter,
                                          const absl::Status& full) const {
  GRAFT_RETURN_IF_ERROR(CheckWanted(waiter));
  return clock_->Now() - waiter.full_since < options_.patience
             ? absl::OkStatus()
             : full;
}

bool RequestLoader::ServeFirst() {
  WaiterPtr first;
  {
    absl::MutexLock lock(&mu_);
    first = first_;
  }
  std::vector<RequestedAdapter>& adapters = first->task->adapters;
  absl::Status status = CheckWanted(*first);
  while (status.ok() && adapters.size() < first->choices.size()) {
    const AdapterChoice& choice = first->choices[adapters.size()];
    absl::StatusOr<AdapterHandle> handle =
        store_->AcquireResident(choice.name, choice.sha256);
    status = handle.status();
    if (status.ok()) status = AddAdapter(choice, *std::move(handle), adapters);
  }
  if (IsDeviceFullForNow(status)) {
    std::vector<PreparedAdapterPtr> held;
    for (const RequestedAdapter& adapter : adapters) {
      held.push_back(adapter.handle.prepared());
    }
    absl::Status hopeless = store_->CheckRoomOnDevice(
        held,
        WantedBytes(status) + KnownBytes(first->choices, held.size() + 1));
    held.clear();
    if (hopeless.ok()) hopeless = CheckPatience(*first, status);
    if (hopeless.ok()) return false;
    status = hopeless;
  }
  {
    absl::MutexLock lock(&mu_);
    first_ = nullptr;
    ChooseFirst();
  }
  if (status.ok()) {
    HandOver(*first);
  } else {
    Fail(*first, status);
  }
  return true;
}

void RequestLoader::Pause() {
  // What was merged last gives way, unless a request runs: it will itself.
  bool let_go = scheduler_->load().unfinished == 0;
  {
    absl::MutexLock lock(&mu_);
    if (letting_go_) let_go = false;
    if (let_go) letting_go_ = true;
  }
  if (let_go) {
    scheduler_->LetGoWhileIdle([this] {
      absl::MutexLock lock(&mu_);
      letting_go_ = false;
    });
  }
  const auto never = [] { return false; };
  absl::MutexLock lock(&mu_);
  mu_.AwaitWithTimeout(absl::Condition(&never), kLookInterval);
}

int64_t RequestLoader::KnownBytes(const std::vector<AdapterChoice>& choices,
                                  size_t begin) const {
  int64_t bytes = 0;
  for (size_t i = begin; i < choices.size(); ++i) {
    const absl::StatusOr<AdapterInfo> info = store_->Get(choices[i].name);
    if (info.ok()) bytes += info->device_bytes;
  }
  return bytes;
}

// ---- The end ----------------------------------------------------------------

void RequestLoader::HandOver(Waiter& waiter) {
  std::unique_ptr<GenerationTask> task = std::move(waiter.task);
  const std::shared_ptr<GenerationObserver> observer = task->observer;
  const std::string tenant = task->tenant;
  task->adapter_load = clock_->Now() - waiter.began;
  for (RequestedAdapter& adapter : task->adapters) adapter.handle.CountUse();
  Uncount(tenant, waiter.choices);
  const absl::Status submitted = scheduler_->Submit(std::move(task));
  if (!submitted.ok()) observer->OnDone(submitted, {});
}

void RequestLoader::Fail(Waiter& waiter, const absl::Status& status) {
  const std::shared_ptr<GenerationObserver> observer = waiter.task->observer;
  const std::string tenant = waiter.task->tenant;
  // What it has pinned goes before anybody hears of the end.
  waiter.task.reset();
  Uncount(tenant, waiter.choices);
  observer->OnDone(status, {});
}

}  // namespace graft

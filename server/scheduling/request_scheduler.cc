#include "server/scheduling/request_scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/engine/device_lost.h"
#include "server/scheduling/task_liveness.h"

namespace graft {
namespace {

// How often waiting clients hear of their places, and at least how long they
// wait for that for each of them: reports take time from the steps.
constexpr absl::Duration kPlacesInterval = absl::Milliseconds(500);
constexpr absl::Duration kTimeOfPlace = absl::Milliseconds(20);

absl::Status HopelessError(absl::Duration wait, absl::Duration left) {
  return Error(
      ErrorReason::kDeadlineInQueue,
      absl::StrCat("the request would wait for about ",
                   absl::FormatDuration(wait), " and its deadline is in ",
                   absl::FormatDuration(left),
                   "; allow more time or try again later"),
      {{"steps_done", "0"}});
}

// Ends `task` before the next step when somebody unloads one of its adapters by
// force.
void WatchAdapters(GenerationTask& task) {
  task.adapter_withdrawn = std::make_shared<std::atomic<bool>>(false);
  for (RequestedAdapter& adapter : task.adapters) {
    adapter.handle.OnForcedUnload([withdrawn = task.adapter_withdrawn] {
      withdrawn->store(true, std::memory_order_relaxed);
    });
  }
}

}  // namespace

RequestScheduler::RequestScheduler(Engine* engine, Executor* encoder,
                                   const Clock* clock, const Options& options)
    : engine_(engine),
      encoder_(encoder),
      clock_(clock),
      options_(options),
      resident_(engine),
      guard_(
          &resident_, [this](const absl::Status& status) { OnDrift(status); },
          options.on_verified),
      runner_(engine, &resident_, clock, &aborting_, options.make_room),
      next_places_(clock->Now() + kPlacesInterval),
      ledger_(max_batch_size()),
      owner_thread_([this] { RunOwnerThread(); }) {}

RequestScheduler::~RequestScheduler() {
  Drain(absl::ZeroDuration());
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  owner_thread_.join();
}

// ---- Admission --------------------------------------------------------------

absl::Status RequestScheduler::Submit(std::unique_ptr<GenerationTask> task) {
  const absl::Time now = clock_->Now();
  WatchAdapters(*task);
  GRAFT_RETURN_IF_ERROR(CheckTaskLiveness(*task, now, {}));
  GRAFT_RETURN_IF_ERROR(guard_.status());

  RequestView view = ViewOfTask(*task, /*id=*/0);
  std::shared_ptr<RequestReplies> replies;
  std::vector<AcceptedRequest> dead;
  absl::Status refusal;
  QueuePlace place;
  absl::Duration wait;
  {
    absl::MutexLock lock(&mu_);
    if (draining_) return Draining();
    refusal = CheckRoom(view);
    if (!refusal.ok()) {
      dead = TakeDead(now);
      refusal = CheckRoom(view);
    }
    view.id = next_id_++;
    place = PlaceOf(ledger_.state(), view);
    wait = rate_.TimeFor(place.work_ahead);
    if (refusal.ok() && wait > absl::ZeroDuration() &&
        BeginsNext(ledger_.state(), view)) {
      wait = absl::ZeroDuration();
    }
    if (refusal.ok() && wait > task->deadline - now) {
      refusal = HopelessError(wait, task->deadline - now);
    }
    if (refusal.ok()) {
      replies = std::make_shared<RequestReplies>(
          std::move(task), encoder_, &replier_, clock_,
          options_.progress_interval, [this] { OnRequestDone(); });
      queue_.Push({view.id, replies, now, place.position});
      ledger_.Add(std::move(view));
      ++unfinished_;
    }
  }
  EndDead(dead, now);
  GRAFT_RETURN_IF_ERROR(refusal);
  replies->Open(place.position, wait);
  return absl::OkStatus();
}

absl::Status RequestScheduler::CheckRoom(const RequestView& newcomer) const {
  const char* full = nullptr;
  if (ledger_.waiting() >= options_.max_queued_requests) {
    full = "all places in the queue are taken";
  } else if (ledger_.waiting() > 0 &&
             ledger_.waiting_work() + newcomer.WorkLeft() >
                 options_.max_queued_work) {
    full = "the queue holds as much work as it may";
  }
  // One place is each tenant's own: no other's requests can keep it out.
  if (full == nullptr || !ledger_.HasWaiting(newcomer.tenant)) {
    return absl::OkStatus();
  }
  absl::Duration delay = rate_.TimeFor(ledger_.work_left());
  if (delay == absl::ZeroDuration()) delay = options_.retry_delay;
  return WithRetryDelay(
      Error(
          ErrorReason::kQueueFull, absl::StrCat(full, "; try again later"),
          {{"max_queued_requests", absl::StrCat(options_.max_queued_requests)},
           {"max_queued_work", absl::StrCat(options_.max_queued_work)}}),
      delay);
}

absl::Status RequestScheduler::Draining() const {
  return WithRetryDelay(
      Error(ErrorReason::kDraining, "the server is shutting down"),
      options_.retry_delay);
}

void RequestScheduler::OnRequestDone() {
  absl::MutexLock lock(&mu_);
  --unfinished_;
}

SchedulerLoad RequestScheduler::load() const {
  SchedulerLoad load;
  load.resident = resident_.Get();
  absl::MutexLock lock(&mu_);
  load.waiting = ledger_.waiting();
  load.running = ledger_.started();
  load.unfinished = unfinished_;
  load.batch_size = batch_size_;
  load.waiting_work = ledger_.waiting_work();
  load.backlog = rate_.TimeFor(ledger_.work_left());
  return load;
}

bool RequestScheduler::admitting() const {
  absl::MutexLock lock(&mu_);
  return !draining_;
}

void RequestScheduler::StopAdmitting() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
}

void RequestScheduler::Drain(absl::Duration timeout) {
  const auto all_done = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return unfinished_ == 0;
  };
  StopAdmitting();
  {
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&all_done), timeout)) return;
  }
  Abort();
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&all_done));
}

void RequestScheduler::Abort() {
  aborting_.store(true, std::memory_order_relaxed);
  std::vector<AcceptedRequest> waiting;
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    waiting = TakeAll();
  }
  for (const AcceptedRequest& request : waiting) {
    request.replies->Done(ShutDownError(), {});
  }
}

// ---- Requests that end while they wait --------------------------------------

std::vector<AcceptedRequest> RequestScheduler::TakeDead(absl::Time now) {
  std::vector<AcceptedRequest> dead = queue_.TakeDead(now);
  for (const AcceptedRequest& request : dead) ledger_.Remove(request.id);
  return dead;
}

std::vector<AcceptedRequest> RequestScheduler::TakeAll() {
  std::vector<AcceptedRequest> all = queue_.TakeAll();
  for (const AcceptedRequest& request : all) ledger_.Remove(request.id);
  return all;
}

void RequestScheduler::EndDead(const std::vector<AcceptedRequest>& dead,
                               absl::Time now) {
  for (const AcceptedRequest& request : dead) {
    GenerationSummary summary;
    summary.timings.queue = now - request.accepted_at;
    request.replies->Done(CheckTaskLiveness(request.replies->task(), now, {}),
                          std::move(summary));
  }
}

// ---- Jobs for the owner thread ----------------------------------------------

void RequestScheduler::RunOnOwnerThread(std::function<void(Engine&)> job) {
  absl::MutexLock lock(&mu_);
  jobs_.push_back([this, job = std::move(job)] { job(*engine_); });
}

void RequestScheduler::ReleaseAdapter(
    PreparedAdapterPtr adapter,
    std::function<void(absl::StatusOr<int64_t>)> done) {
  RunOnOwnerThread([this, adapter = std::move(adapter),
                    done = std::move(done)](Engine&) mutable {
    const int64_t bytes = adapter->bytes();
    const absl::Status status = resident_.Release(adapter->sha256());
    adapter.reset();
    if (GetErrorReason(status) == ErrorReason::kBaseWeightsDrift) {
      guard_.ReportDrift(status);
    }
    if (IsDeviceLost(status)) OnDeviceLost(status);
    if (status.ok()) {
      done(bytes);
    } else {
      done(status);
    }
  });
}

void RequestScheduler::LetGoWhileIdle(std::function<void()> done) {
  RunOnOwnerThread([this, done = std::move(done)](Engine&) {
    bool idle = false;
    {
      absl::MutexLock lock(&mu_);
      idle = ledger_.empty();  // else it switches as it needs
    }
    if (idle) {
      const absl::Status status = resident_.SwitchTo({}, 0, 1).status();
      if (GetErrorReason(status) == ErrorReason::kBaseWeightsDrift) {
        guard_.ReportDrift(status);
      }
      if (IsDeviceLost(status)) OnDeviceLost(status);
    }
    done();
  });
}

void RequestScheduler::VerifyBaseWeights(bool repair, OnVerified done) {
  absl::MutexLock lock(&mu_);
  std::vector<OnVerified>& waiting = to_verify_[repair ? 1 : 0];
  waiting.push_back(std::move(done));
  if (waiting.size() > 1) return;
  jobs_.push_back([this, repair] {
    std::vector<OnVerified> all;
    {
      absl::MutexLock lock(&mu_);
      all.swap(to_verify_[repair ? 1 : 0]);
    }
    const absl::StatusOr<VerifyReport> report = guard_.Verify(repair);
    if (IsDeviceLost(report.status())) OnDeviceLost(report.status());
    for (const OnVerified& told : all) told(report);
  });
}

// ---- The owner thread -------------------------------------------------------

void RequestScheduler::RunOwnerThread() {
  while (AwaitWork()) {
    RunJobs();
    EndUnwanted();
    if (!GuardBase()) continue;
    const std::vector<BatchMember> batch = ChooseBatch();
    TellPlaces();
    if (!batch.empty()) RunBatch(batch);
  }
}

bool RequestScheduler::AwaitWork() {
  if (guard_.needs_repair()) return true;
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return stopping_ || !jobs_.empty() || !ledger_.empty();
  };
  absl::MutexLock lock(&mu_);
  if (ledger_.empty()) {
    batch_size_ = 0;
    ledger_.set_max_batch_size(max_batch_size());
  }
  mu_.Await(absl::Condition(&ready));
  return !jobs_.empty() || !ledger_.empty();
}

void RequestScheduler::RunJobs() {
  std::deque<Job> jobs;
  {
    absl::MutexLock lock(&mu_);
    jobs.swap(jobs_);
  }
  for (const Job& job : jobs) job();
}

bool RequestScheduler::GuardBase() {
  // What comes of it is the guard's to tell and to remember.
  if (guard_.needs_repair()) guard_.Verify(/*repair=*/true).IgnoreError();
  const absl::Status damage = guard_.status();
  if (damage.ok()) return true;
  std::vector<AcceptedRequest> waiting;
  {
    absl::MutexLock lock(&mu_);
    waiting = TakeAll();
  }
  for (const AcceptedRequest& request : waiting) {
    request.replies->Done(damage, {});
  }
  return false;
}

void RequestScheduler::EndUnwanted() {
  for (const auto& request : active_) runner_.CheckWanted(*request);
  RemoveEnded();
  const absl::Time now = clock_->Now();
  std::vector<AcceptedRequest> dead;
  {
    absl::MutexLock lock(&mu_);
    dead = TakeDead(now);
  }
  EndDead(dead, now);
}

std::vector<BatchMember> RequestScheduler::ChooseBatch() {
  std::vector<BatchImage> images;
  std::vector<AcceptedRequest> starting;
  {
    absl::MutexLock lock(&mu_);
    if (ledger_.empty()) return {};
    BatchChoice choice = ledger_.Next();
    images = std::move(choice.images);
    batch_stop_ = choice.stop;
    batch_size_ = static_cast<int>(images.size());
    for (const int64_t id : choice.starting)
      starting.push_back(queue_.Take(id));
  }
  for (AcceptedRequest& request : starting) {
    active_.push_back(std::make_unique<ActiveRequest>(
        std::move(request), engine_->info(), clock_->Now()));
  }
  std::vector<BatchMember> batch;
  batch.reserve(images.size());
  for (const BatchImage& image : images) {
    batch.push_back({&FindActive(image.request_id), image.image_index});
  }
  return batch;
}

void RequestScheduler::TellPlaces() {
  const absl::Time now = clock_->Now();
  if (now < next_places_) return;
  struct Move {
    std::shared_ptr<RequestReplies> replies;
    int position;
    absl::Duration wait;
  };
  std::vector<Move> moves;
  {
    absl::MutexLock lock(&mu_);
    next_places_ =
        now + std::max(kPlacesInterval, ledger_.waiting() * kTimeOfPlace);
    for (const RequestView& view : ledger_.state().requests) {
      if (view.started) continue;
      AcceptedRequest& request = queue_.requests().at(view.id);
      const QueuePlace place = PlaceOf(ledger_.state(), view);
      if (place.position == request.told_position) continue;
      request.told_position = place.position;
      moves.push_back(
          {request.replies, place.position, rate_.TimeFor(place.work_ahead)});
    }
  }
  for (const Move& move : moves) move.replies->Moved(move.position, move.wait);
}

void RequestScheduler::RunBatch(const std::vector<BatchMember>& batch) {
  const absl::Time start = clock_->Now();
  BatchReport report = runner_.RunStep(batch);
  report.stop = batch_stop_;
  const absl::Duration busy = clock_->Now() - start;
  {
    absl::MutexLock lock(&mu_);
    Record(batch, report, busy);
  }
  RemoveEnded();
  if (!report.drift.ok()) guard_.ReportDrift(report.drift);
  if (!report.device_lost.ok()) OnDeviceLost(report.device_lost);
  if (options_.on_step) options_.on_step(report);
}

void RequestScheduler::Record(const std::vector<BatchMember>& batch,
                              const BatchReport& report, absl::Duration busy) {
  if (report.work_done > 0) rate_.Add(report.work_done, busy);
  if (report.out_of_memory) ledger_.set_max_batch_size(report.batch_size / 2);
  for (auto member = batch.begin(); member != batch.end(); ++member) {
    const ActiveRequest& request = *member->request;
    const bool seen = std::any_of(
        batch.begin(), member,
        [&](const BatchMember& other) { return other.request == &request; });
    if (seen || request.ended()) continue;
    ledger_.MadeStep(request.id(), request.Views());
  }
}

void RequestScheduler::RemoveEnded() {
  const auto ended =
      std::partition(active_.begin(), active_.end(),
                     [](const auto& request) { return !request->ended(); });
  {
    absl::MutexLock lock(&mu_);
    for (auto it = ended; it != active_.end(); ++it)
      ledger_.Remove((*it)->id(), (*it)->unused_work());
  }
  active_.erase(ended, active_.end());
}

void RequestScheduler::OnDeviceLost(const absl::Status& status) {
  if (std::exchange(device_lost_, true)) return;
  std::vector<AcceptedRequest> waiting;
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    waiting = TakeAll();
  }
  for (const AcceptedRequest& request : waiting) {
    request.replies->Done(Draining(), {});
  }
  for (const auto& request : active_) request->End(status);
  RemoveEnded();
  if (options_.on_device_lost) options_.on_device_lost(status);
}

void RequestScheduler::OnDrift(const absl::Status& status) {
  if (!status.ok()) {
    for (const auto& request : active_) request->End(status);
    RemoveEnded();
  }
  if (options_.on_drift) options_.on_drift(status);
}

ActiveRequest& RequestScheduler::FindActive(int64_t id) {
  return **std::find_if(
      active_.begin(), active_.end(),
      [id](const auto& request) { return request->id() == id; });
}

}  // namespace graft

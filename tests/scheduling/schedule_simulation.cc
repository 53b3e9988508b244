#include "tests/scheduling/schedule_simulation.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/scheduling/request_ledger.h"

namespace graft {
namespace {

// A way to choose the next batch.
class SimulatedQueue {
 public:
  virtual ~SimulatedQueue() = default;
  virtual bool empty() const = 0;
  virtual void Add(RequestView request) = 0;
  virtual std::vector<BatchImage> Next() = 0;
  virtual void MadeStep(int64_t id, std::vector<ImageView> images) = 0;
  virtual void Remove(int64_t id) = 0;
  virtual int max_passed_over() const { return 0; }
};

// As the scheduler chooses.
class LedgerQueue : public SimulatedQueue {
 public:
  explicit LedgerQueue(int max_batch_size) : ledger_(max_batch_size) {}

  bool empty() const override { return ledger_.empty(); }
  void Add(RequestView request) override { ledger_.Add(std::move(request)); }
  std::vector<BatchImage> Next() override {
    std::vector<BatchImage> images = ledger_.Next().images;
    for (const RequestView& request : ledger_.state().requests) {
      max_passed_over_ = std::max(max_passed_over_, request.passed_over);
    }
    return images;
  }
  void MadeStep(int64_t id, std::vector<ImageView> images) override {
    ledger_.MadeStep(id, std::move(images));
  }
  void Remove(int64_t id) override { ledger_.Remove(id); }
  int max_passed_over() const override { return max_passed_over_; }

 private:
  RequestLedger ledger_;
  int max_passed_over_ = 0;
};

// Takes turns among the adapters of the first requests, ten steps each.
class RoundRobinQueue : public SimulatedQueue {
 public:
  explicit RoundRobinQueue(int max_batch_size) : max_batch_(max_batch_size) {}

  bool empty() const override { return requests_.empty(); }
  void Add(RequestView request) override {
    requests_.push_back(std::move(request));
  }

  std::vector<BatchImage> Next() override {
    if (slice_steps_ == 0 || !HasKey(key_)) NextTurn();
    --slice_steps_;
    std::vector<BatchImage> images;
    for (size_t i = 0; i < Admitted(); ++i) {
      for (const ImageView& image : requests_[i].images) {
        if (images.size() < static_cast<size_t>(max_batch_) &&
            image.batch_key == key_) {
          images.push_back({requests_[i].id, image.index});
        }
      }
    }
    return images;
  }

  void MadeStep(int64_t id, std::vector<ImageView> images) override {
    Find(id)->images = std::move(images);
  }
  void Remove(int64_t id) override { requests_.erase(Find(id)); }

 private:
  static constexpr int kSliceSteps = 10;

  // Requests that take part in the round.
  size_t Admitted() const {
    return std::min(requests_.size(), static_cast<size_t>(4 * max_batch_));
  }

  std::vector<std::string> Keys() const {
    std::vector<std::string> keys;
    for (size_t i = 0; i < Admitted(); ++i) {
      const std::string& key = requests_[i].images.front().batch_key;
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) {
        keys.push_back(key);
      }
    }
    return keys;
  }

  bool HasKey(const std::string& key) const {
    const std::vector<std::string> keys = Keys();
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  }

  void NextTurn() {
    const std::vector<std::string> keys = Keys();
    key_ = keys[turn_++ % keys.size()];
    slice_steps_ = kSliceSteps;
  }

  std::vector<RequestView>::iterator Find(int64_t id) {
    return std::find_if(
        requests_.begin(), requests_.end(),
        [id](const RequestView& request) { return request.id == id; });
  }

  const int max_batch_;
  std::vector<RequestView> requests_;
  std::string key_;
  size_t turn_ = 0;
  int slice_steps_ = 0;
};

std::unique_ptr<SimulatedQueue> MakeQueue(SimulatedPolicy policy,
                                          int max_batch_size) {
  switch (policy) {
    case SimulatedPolicy::kFifo:
      return std::make_unique<LedgerQueue>(1);
    case SimulatedPolicy::kRoundRobin:
      return std::make_unique<RoundRobinQueue>(max_batch_size);
    case SimulatedPolicy::kJoin:
    case SimulatedPolicy::kUnmerged:
      break;
  }
  return std::make_unique<LedgerQueue>(max_batch_size);
}

// Element at `share` of the sorted values.
double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(
      values.size() - 1,
      static_cast<size_t>(static_cast<double>(values.size()) * share))];
}

// One run of one policy over one trace.
class Simulation {
 public:
  Simulation(const Trace& trace, SimulatedPolicy policy,
             const DeviceModel& device, int max_batch_size)
      : trace_(trace),
        merged_(policy != SimulatedPolicy::kUnmerged),
        device_(device),
        queue_(MakeQueue(policy, max_batch_size)),
        images_(trace.size()) {}

  SimulationResult Run() {
    while (next_arrival_ < trace_.size() || !queue_->empty()) {
      if (queue_->empty()) now_ = std::max(now_, trace_[next_arrival_].arrival);
      Admit();
      MakeStep(queue_->Next());
    }
    return Result();
  }

 private:
  const SimulatedRequest& Request(int64_t id) const {
    return trace_[static_cast<size_t>(id)];
  }
  std::vector<ImageView>& Images(int64_t id) {
    return images_[static_cast<size_t>(id)];
  }

  void Admit() {
    for (;
         next_arrival_ < trace_.size() && trace_[next_arrival_].arrival <= now_;
         ++next_arrival_) {
      const SimulatedRequest& request = trace_[next_arrival_];
      const auto id = static_cast<int64_t>(next_arrival_);
      const std::string key =
          absl::StrCat(request.pixels, " ", merged_ ? request.adapter : 0);
      for (int i = 0; i < request.images; ++i) {
        Images(id).push_back({i, key, request.steps * request.pixels, false});
      }
      queue_->Add({.id = id,
                   .tenant = request.tenant,
                   .priority = request.priority,
                   .images = Images(id)});
    }
  }

  void MakeStep(const std::vector<BatchImage>& batch) {
    const SimulatedRequest& first = Request(batch.front().request_id);
    if (merged_ && first.adapter != merged_adapter_) {
      merged_adapter_ = first.adapter;
      now_ += device_.adapter_switch;
      ++switches_;
    }
    now_ += StepTime(static_cast<double>(batch.size()), first.pixels);
    std::set<int64_t> ids;
    for (const BatchImage& member : batch) {
      ids.insert(member.request_id);
      MakeStep(member);
    }
    for (const int64_t id : ids) AfterStep(id);
  }

  double StepTime(double batch_size, int64_t pixels) const {
    double time = device_.step + device_.step_per_image * batch_size;
    if (!merged_) {
      time += device_.unmerged + device_.unmerged_per_image * batch_size;
    }
    return time * static_cast<double>(pixels) /
           static_cast<double>(device_.pixels);
  }

  void MakeStep(const BatchImage& member) {
    for (ImageView& image : Images(member.request_id)) {
      if (image.index != member.image_index) continue;
      image.begun = true;
      image.work_left -= Request(member.request_id).pixels;
      if (image.work_left == 0) now_ += device_.text_and_decode;
    }
  }

  void AfterStep(int64_t id) {
    std::vector<ImageView>& images = Images(id);
    const auto done = std::remove_if(
        images.begin(), images.end(),
        [](const ImageView& image) { return image.work_left == 0; });
    images_done_ += images.end() - done;
    images.erase(done, images.end());
    if (!images.empty()) {
      queue_->MadeStep(id, images);
      return;
    }
    queue_->Remove(id);
    const SimulatedRequest& request = Request(id);
    latencies_.push_back(now_ - request.arrival);
    slowdowns_[request.tenant].push_back(latencies_.back() /
                                         TimeAlone(request, device_));
  }

  SimulationResult Result() const {
    SimulationResult result;
    result.p50 = Percentile(latencies_, 0.5);
    result.p99 = Percentile(latencies_, 0.99);
    result.images_per_second = static_cast<double>(images_done_) / now_;
    result.switches_per_request =
        static_cast<double>(switches_) / static_cast<double>(trace_.size());
    result.max_passed_over = queue_->max_passed_over();
    double sum = 0;
    double squares = 0;
    for (const auto& [tenant, slowdowns] : slowdowns_) {
      double mean = 0;
      for (const double slowdown : slowdowns) mean += slowdown;
      mean /= static_cast<double>(slowdowns.size());
      result.mean_slowdown[tenant] = mean;
      sum += mean;
      squares += mean * mean;
    }
    result.fairness =
        sum * sum / (static_cast<double>(slowdowns_.size()) * squares);
    return result;
  }

  const Trace& trace_;
  const bool merged_;
  const DeviceModel& device_;
  const std::unique_ptr<SimulatedQueue> queue_;
  std::vector<std::vector<ImageView>> images_;  // unfinished ones, by request
  double now_ = 0;
  size_t next_arrival_ = 0;
  int merged_adapter_ = -1;
  int64_t switches_ = 0;
  int64_t images_done_ = 0;
  std::vector<double> latencies_;
  std::map<std::string, std::vector<double>> slowdowns_;
};

}  // namespace

DeviceModel SdxlModel() { return {}; }

DeviceModel Sd15Model() {
  return {.pixels = 512 * 512,
          .step = 0.0025,
          .step_per_image = 0.003,
          .unmerged = 0.0008,
          .unmerged_per_image = 0.0002,
          .adapter_switch = 0.0003,
          .text_and_decode = 0.008};
}

double TimeAlone(const SimulatedRequest& request, const DeviceModel& device) {
  const double size =
      static_cast<double>(request.pixels) / static_cast<double>(device.pixels);
  return request.images *
         (request.steps * size * (device.step + device.step_per_image) +
          device.text_and_decode);
}

SimulationResult Simulate(const Trace& trace, SimulatedPolicy policy,
                          const DeviceModel& device, int max_batch_size) {
  return Simulation(trace, policy, device, max_batch_size).Run();
}

}  // namespace graft

#ifndef GRAFT_TESTS_TESTING_FAKE_ENGINE_H_
#define GRAFT_TESTS_TESTING_FAKE_ENGINE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "server/engine/engine.h"

namespace graft {

// A member of an adapter set, as FakeEngine records it.
struct FakeSetMember {
  std::string sha256;
  double unet_weight = 1.0;
  double text_encoder_weight = 1.0;

  bool operator==(const FakeSetMember& other) const {
    return sha256 == other.sha256 && unet_weight == other.unet_weight &&
           text_encoder_weight == other.text_encoder_weight;
  }
  bool operator<(const FakeSetMember& other) const {
    return std::tie(sha256, unet_weight, text_encoder_weight) <
           std::tie(other.sha256, other.unet_weight, other.text_encoder_weight);
  }
};

// Sorted by sha256, as a set has no order.
using FakeSet = std::vector<FakeSetMember>;

// An engine without arithmetic for tests of the rooms above. Its pictures are
// coloured noise made from the resident set at Begin and at every Step and from
// all parameters, so that ExpectedImage() tells whether a request really ran
// with its own adapters from start to end.
//
// Calls can be made to fail or to block until the test lets them go. Dials and
// records are thread-safe, at any time.
class FakeEngine : public Engine {
 public:
  // The calls that have dials.
  enum class Call {
    kPrepare,
    kSwitch,
    kBegin,
    kStep,
    kFinish,
    kVerify,
    kPreview
  };

  // With the modules of TinyModules().
  FakeEngine();
  explicit FakeEngine(ModuleTable modules);

  // A few modules named as in SD 1.x: linear, 1x1 and 3x3 convolutions, text
  // encoder. TinyLoraFile() of adapter_file_builder.h fits them.
  static ModuleTable TinyModules();

  // The picture that `params` gives with `set` resident throughout.
  static Image ExpectedImage(const GenerationParams& params, FakeSet set);

  // The picture that `params` gives with `sets[k]` resident at step k, the
  // first one at Begin too. REQUIRES: one set for each step.
  static Image ExpectedScheduledImage(const GenerationParams& params,
                                      std::vector<FakeSet> sets);

  // --- Dials ---

  // From now on `call` fails with `status` (OK: works again).
  void Fail(Call call, absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  // Step number `step` (from 0) of every generation fails.
  void FailStep(int step, absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  // From now on step number `step` (from 0) of the generations with this seed
  // fails, and the others of their batch are done.
  void FailSeed(uint64_t seed, int step, absl::Status status)
      ABSL_LOCKS_EXCLUDED(mu_);

  // From now on steps of more than `size` generations fail as a whole.
  void FailBatchesAbove(int size, absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  // From now on `hook` is called, without a lock, whenever `call` is entered.
  void OnCall(Call call, std::function<void()> hook) ABSL_LOCKS_EXCLUDED(mu_);

  // VerifyBaseWeights finds these parameters changed until it repairs them,
  // which works if `repairable`.
  void SetDrift(std::vector<std::string> parameters, bool repairable)
      ABSL_LOCKS_EXCLUDED(mu_);

  // From now on `call` blocks, before it does anything.
  void Block(Call call) ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until a thread is blocked in `call`; false after 30 s.
  bool WaitUntilBlocked(Call call) ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until `call` was entered `times` times; false after 30 s.
  bool WaitUntilCalled(Call call, int times) ABSL_LOCKS_EXCLUDED(mu_);

  // Lets one blocked (or the next) call through; later ones block again.
  void LetOneThrough(Call call) ABSL_LOCKS_EXCLUDED(mu_);

  // Ends Block() for good.
  void Unblock(Call call) ABSL_LOCKS_EXCLUDED(mu_);

  // --- Records ---

  // The set of every successful SwitchAdapters that changed something.
  std::vector<FakeSet> switches() const ABSL_LOCKS_EXCLUDED(mu_);
  FakeSet resident() const ABSL_LOCKS_EXCLUDED(mu_);

  // Parameters of every generation begun.
  std::vector<GenerationParams> begun() const ABSL_LOCKS_EXCLUDED(mu_);

  // The seeds of every batch that made a step, in order.
  std::vector<std::vector<uint64_t>> batches() const ABSL_LOCKS_EXCLUDED(mu_);

  // How often `call` was entered, failed ones included.
  int calls(Call call) const ABSL_LOCKS_EXCLUDED(mu_);

  // Generations and prepared adapters that are not destroyed yet.
  int live_generations() const { return *live_generations_; }
  int live_prepared() const { return *live_prepared_; }

  // --- Engine ---

  const EngineInfo& info() const override { return info_; }
  const ModuleTable& modules() const override { return modules_; }
  MemoryUsage memory() const override;
  absl::StatusOr<PreparedAdapterPtr> Prepare(
      const AdapterWeights& weights) const override ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<SwitchReport> SwitchAdapters(const AdapterSet& next) override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::unique_ptr<Generation>> Begin(
      const GenerationParams& params) override ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Step(absl::Span<Generation* const> batch) override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<Image> Preview(const Generation& generation) override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<Image> Finish(Generation& generation) override
      ABSL_LOCKS_EXCLUDED(mu_);
  // Finds what SetDrift said; repairing works unless it said otherwise.
  absl::StatusOr<VerifyReport> VerifyBaseWeights(bool repair) override
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status ExportWeights(
      const std::string& path,
      const std::map<std::string, std::string>& metadata) const override;
  // A digest of the resident set; a constant.
  std::string WeightsSha256() const override ABSL_LOCKS_EXCLUDED(mu_);
  std::string AddressesSha256() const override;

 private:
  static constexpr int kNumCalls = 7;

  struct Dial {
    absl::Status status;
    std::function<void()> hook;
    bool block = false;
    int let_through = 0;
    int blocked = 0;  // threads waiting
    int calls = 0;
  };

  // How the step of a generation with this seed, the `step`-th, is to end.
  absl::Status StepFailure(uint64_t seed, int step) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Makes `next` the resident set; the former one, to be dropped without lock.
  AdapterSet SetResident(const AdapterSet& next)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Counts the call, waits while it is blocked, and tells how it is to end.
  absl::Status Enter(Call call) const ABSL_LOCKS_EXCLUDED(mu_);
  Dial& dial(Call call) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return dials_[static_cast<size_t>(call)];
  }

  const EngineInfo info_;
  const ModuleTable modules_;
  const std::shared_ptr<std::atomic<int>> live_generations_;
  const std::shared_ptr<std::atomic<int>> live_prepared_;
  const std::shared_ptr<std::atomic<int64_t>> prepared_bytes_;

  mutable absl::Mutex mu_;
  mutable std::array<Dial, kNumCalls> dials_ ABSL_GUARDED_BY(mu_);
  std::map<int, absl::Status> step_failures_ ABSL_GUARDED_BY(mu_);
  std::map<std::pair<uint64_t, int>, absl::Status> seed_failures_
      ABSL_GUARDED_BY(mu_);  // by seed and step
  int max_batch_ ABSL_GUARDED_BY(mu_) = std::numeric_limits<int>::max();
  absl::Status batch_failure_ ABSL_GUARDED_BY(mu_);
  AdapterSet resident_ ABSL_GUARDED_BY(mu_);  // keeps the adapters alive
  std::vector<FakeSet> switches_ ABSL_GUARDED_BY(mu_);
  std::vector<GenerationParams> begun_ ABSL_GUARDED_BY(mu_);
  std::vector<std::vector<uint64_t>> batches_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> drift_ ABSL_GUARDED_BY(mu_);
  bool repairable_ ABSL_GUARDED_BY(mu_) = true;
};

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_FAKE_ENGINE_H_

#include "tests/testing/fake_engine.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// Adds to a counter for as long as it lives.
class Counted {
 public:
  explicit Counted(std::shared_ptr<std::atomic<int>> count)
      : count_(std::move(count)) {
    ++*count_;
  }
  ~Counted() { --*count_; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  const std::shared_ptr<std::atomic<int>> count_;
};

class FakePreparedAdapter : public PreparedAdapter {
 public:
  FakePreparedAdapter(std::string sha256, int64_t bytes,
                      std::shared_ptr<std::atomic<int>> live,
                      std::shared_ptr<std::atomic<int64_t>> total_bytes)
      : counted_(std::move(live)),
        sha256_(std::move(sha256)),
        bytes_(bytes),
        total_bytes_(std::move(total_bytes)) {
    *total_bytes_ += bytes_;
  }
  ~FakePreparedAdapter() override { *total_bytes_ -= bytes_; }

  const std::string& sha256() const override { return sha256_; }
  int64_t bytes() const override { return bytes_; }

 private:
  const Counted counted_;
  const std::string sha256_;
  const int64_t bytes_;
  const std::shared_ptr<std::atomic<int64_t>> total_bytes_;
};

std::string Describe(const FakeSet& set) {
  std::string text = "set";
  for (const FakeSetMember& member : set) {
    absl::StrAppend(&text, " ", member.sha256, "=", member.unet_weight, "/",
                    member.text_encoder_weight);
  }
  return text;
}

std::string Describe(const GenerationParams& params) {
  return absl::StrCat(params.prompt, "\n", params.negative_prompt, "\n",
                      params.width, "x", params.height, " ", params.steps, " ",
                      params.guidance_scale, " ", params.sampler, " ",
                      params.seed);
}

class FakeGeneration : public Generation {
 public:
  FakeGeneration(GenerationParams params,
                 std::shared_ptr<std::atomic<int>> live)
      : counted_(std::move(live)),
        params_(std::move(params)),
        digest_(Describe(params_)) {}

  int steps_done() const override { return steps_done_; }
  int steps_total() const override { return params_.steps; }
  int truncated_tokens() const override { return 0; }
  absl::Status status() const override { return status_; }

  // Mixes the set that is resident now into the picture.
  void See(const FakeSet& set) {
    const std::string text = absl::StrCat(digest_, "\n", Describe(set));
    digest_ = Sha256Hex(text.data(), text.size());
  }
  uint64_t seed() const { return params_.seed; }
  void CountStep() { ++steps_done_; }
  void Fail(absl::Status status) { status_ = std::move(status); }

  // Every pixel from the digest and its place.
  Image Draw() const { return Draw(params_.width, params_.height); }
  Image DrawSmall() const {
    return Draw(params_.width / 8, params_.height / 8);
  }

 private:
  Image Draw(int width, int height) const {
    Image image{width, height, {}};
    image.rgb.resize(size_t{3} * image.width * image.height);
    for (size_t i = 0; i < image.rgb.size(); ++i) {
      image.rgb[i] = static_cast<uint8_t>(digest_[i % digest_.size()] * 31 +
                                          i / digest_.size());
    }
    return image;
  }

  const Counted counted_;
  const GenerationParams params_;
  std::string digest_;
  int steps_done_ = 0;
  absl::Status status_;
};

FakeSet ToFakeSet(const AdapterSet& set) {
  FakeSet fake;
  for (const WeightedAdapter& member : set) {
    fake.push_back({member.adapter->sha256(), member.unet_weight,
                    member.text_encoder_weight});
  }
  std::sort(fake.begin(), fake.end());
  return fake;
}

absl::Status CheckNamedOnce(const FakeSet& set) {
  const auto twice = std::adjacent_find(
      set.begin(), set.end(),
      [](const auto& a, const auto& b) { return a.sha256 == b.sha256; });
  if (twice == set.end()) return absl::OkStatus();
  return InvalidField("adapters", "one adapter is named twice");
}

EngineInfo TinyInfo() {
  EngineInfo info;
  info.model_name = "fake";
  info.family = BaseFamily::kSd1;
  info.device = "cpu";
  info.device_name = "fake device";
  info.dtype = "float32";
  info.restore = "undo_log";
  info.base_sha256 = std::string(64, 'b');
  info.default_width = 16;
  info.default_height = 16;
  info.default_sampler = "ddim";
  info.prediction_type = "epsilon";
  info.torch_version = "0.0.0";
  return info;
}

}  // namespace

FakeEngine::FakeEngine() : FakeEngine(TinyModules()) {}

FakeEngine::FakeEngine(ModuleTable modules)
    : info_(TinyInfo()),
      modules_(std::move(modules)),
      live_generations_(std::make_shared<std::atomic<int>>(0)),
      live_prepared_(std::make_shared<std::atomic<int>>(0)),
      prepared_bytes_(std::make_shared<std::atomic<int64_t>>(0)) {}

ModuleTable FakeEngine::TinyModules() {
  ModuleTable table;
  table.family = BaseFamily::kSd1;
  table.unet_layers_per_block = 2;
  table.modules = {
      {"text_encoder.text_model.encoder.layers.0.mlp.fc1",
       ModuleKind::kLinear,
       {16, 8},
       true},
      {"text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
       ModuleKind::kLinear,
       {8, 8},
       true},
      {"unet.down_blocks.0.attentions.0.proj_in",
       ModuleKind::kConv2d,
       {8, 8, 1, 1},
       true},
      {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
       ModuleKind::kLinear,
       {8, 8},
       true},
      {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
       ModuleKind::kLinear,
       {8, 8},
       false},
      {"unet.down_blocks.0.resnets.0.conv1",
       ModuleKind::kConv2d,
       {8, 4, 3, 3},
       true},
      {"unet.down_blocks.0.resnets.0.norm1", ModuleKind::kNorm, {4}, true},
  };
  return table;
}

Image FakeEngine::ExpectedImage(const GenerationParams& params, FakeSet set) {
  return ExpectedScheduledImage(
      params, std::vector<FakeSet>(static_cast<size_t>(params.steps), set));
}

Image FakeEngine::ExpectedScheduledImage(const GenerationParams& params,
                                         std::vector<FakeSet> sets) {
  FakeGeneration generation(params, std::make_shared<std::atomic<int>>(0));
  for (FakeSet& set : sets) std::sort(set.begin(), set.end());
  generation.See(sets.front());
  for (const FakeSet& set : sets) generation.See(set);
  return generation.Draw();
}

void FakeEngine::Fail(Call call, absl::Status status) {
  absl::MutexLock lock(&mu_);
  dial(call).status = std::move(status);
}

void FakeEngine::FailStep(int step, absl::Status status) {
  absl::MutexLock lock(&mu_);
  step_failures_[step] = std::move(status);
}

void FakeEngine::FailSeed(uint64_t seed, int step, absl::Status status) {
  absl::MutexLock lock(&mu_);
  seed_failures_[{seed, step}] = std::move(status);
}

void FakeEngine::FailBatchesAbove(int size, absl::Status status) {
  absl::MutexLock lock(&mu_);
  max_batch_ = size;
  batch_failure_ = std::move(status);
}

void FakeEngine::OnCall(Call call, std::function<void()> hook) {
  absl::MutexLock lock(&mu_);
  dial(call).hook = std::move(hook);
}

void FakeEngine::Block(Call call) {
  absl::MutexLock lock(&mu_);
  dial(call).block = true;
}

bool FakeEngine::WaitUntilBlocked(Call call) {
  absl::MutexLock lock(&mu_);
  const int& blocked = dial(call).blocked;
  const auto is_blocked = [&blocked] { return blocked > 0; };
  return mu_.AwaitWithTimeout(absl::Condition(&is_blocked), absl::Seconds(30));
}

bool FakeEngine::WaitUntilCalled(Call call, int times) {
  absl::MutexLock lock(&mu_);
  const int& calls = dial(call).calls;
  const auto called = [&calls, times] { return calls >= times; };
  return mu_.AwaitWithTimeout(absl::Condition(&called), absl::Seconds(30));
}

void FakeEngine::LetOneThrough(Call call) {
  absl::MutexLock lock(&mu_);
  ++dial(call).let_through;
}

void FakeEngine::Unblock(Call call) {
  absl::MutexLock lock(&mu_);
  dial(call).block = false;
}

std::vector<FakeSet> FakeEngine::switches() const {
  absl::MutexLock lock(&mu_);
  return switches_;
}

FakeSet FakeEngine::resident() const {
  absl::MutexLock lock(&mu_);
  return ToFakeSet(resident_);
}

std::vector<GenerationParams> FakeEngine::begun() const {
  absl::MutexLock lock(&mu_);
  return begun_;
}

std::vector<std::vector<uint64_t>> FakeEngine::batches() const {
  absl::MutexLock lock(&mu_);
  return batches_;
}

int FakeEngine::calls(Call call) const {
  absl::MutexLock lock(&mu_);
  return dial(call).calls;
}

absl::Status FakeEngine::Enter(Call call) const {
  std::function<void()> hook;
  {
    absl::MutexLock lock(&mu_);
    ++dial(call).calls;
    hook = dial(call).hook;
  }
  if (hook) hook();
  absl::MutexLock lock(&mu_);
  Dial& dial = this->dial(call);
  const auto may_pass = [&dial] { return !dial.block || dial.let_through > 0; };
  ++dial.blocked;
  mu_.Await(absl::Condition(&may_pass));
  --dial.blocked;
  if (dial.block) --dial.let_through;
  return dial.status;
}

MemoryUsage FakeEngine::memory() const {
  return {.base_bytes = 1000,
          .restore_bytes = 100,
          .adapter_bytes = *prepared_bytes_,
          .device_used_bytes = 2000,
          .device_total_bytes = 4000};
}

absl::StatusOr<PreparedAdapterPtr> FakeEngine::Prepare(
    const AdapterWeights& weights) const {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kPrepare));
  int64_t bytes = 0;
  for (const AdapterTarget& target : weights.targets) {
    for (const AdapterFactor& factor : target.factors) {
      bytes += static_cast<int64_t>(factor.tensor.bytes.size());
    }
  }
  return std::make_shared<FakePreparedAdapter>(weights.sha256, bytes,
                                               live_prepared_, prepared_bytes_);
}

absl::StatusOr<SwitchReport> FakeEngine::SwitchAdapters(
    const AdapterSet& next) {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kSwitch));
  const FakeSet set = ToFakeSet(next);
  GRAFT_RETURN_IF_ERROR(CheckNamedOnce(set));
  AdapterSet former;  // dropped after the lock
  absl::MutexLock lock(&mu_);
  if (set == ToFakeSet(resident_)) return SwitchReport{};
  former = SetResident(next);
  return SwitchReport{.changed = true, .duration = absl::Milliseconds(1)};
}

AdapterSet FakeEngine::SetResident(const AdapterSet& next) {
  switches_.push_back(ToFakeSet(next));
  return std::exchange(resident_, next);
}

absl::StatusOr<std::unique_ptr<Generation>> FakeEngine::Begin(
    const GenerationParams& params) {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kBegin));
  auto generation = std::make_unique<FakeGeneration>(params, live_generations_);
  generation->See(resident());
  absl::MutexLock lock(&mu_);
  begun_.push_back(params);
  return generation;
}

absl::Status FakeEngine::Step(absl::Span<Generation* const> batch) {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kStep));
  const FakeSet set = resident();
  absl::MutexLock lock(&mu_);
  if (batch.size() > static_cast<size_t>(max_batch_)) return batch_failure_;
  absl::Status status;
  std::vector<uint64_t> seeds;
  for (Generation* const generation : batch) {
    auto* const fake = static_cast<FakeGeneration*>(generation);
    seeds.push_back(fake->seed());
    const absl::Status failure = StepFailure(fake->seed(), fake->steps_done());
    if (!failure.ok()) {
      fake->Fail(failure);
      status.Update(failure);
      continue;
    }
    fake->See(set);
    fake->CountStep();
  }
  batches_.push_back(std::move(seeds));
  return status;
}

absl::Status FakeEngine::StepFailure(uint64_t seed, int step) const {
  const auto of_seed = seed_failures_.find({seed, step});
  if (of_seed != seed_failures_.end()) return of_seed->second;
  const auto of_step = step_failures_.find(step);
  return of_step != step_failures_.end() ? of_step->second : absl::OkStatus();
}

absl::StatusOr<VerifyReport> FakeEngine::VerifyBaseWeights(bool repair) {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kVerify));
  AdapterSet former;  // dropped after the lock
  absl::MutexLock lock(&mu_);
  if (!resident_.empty()) former = SetResident({});
  VerifyReport report;
  report.parameters = static_cast<int64_t>(modules_.modules.size());
  report.differing = drift_;
  if (repair && repairable_) drift_.clear();
  report.unrepaired = drift_;
  return report;
}

absl::Status FakeEngine::ExportWeights(
    const std::string&, const std::map<std::string, std::string>&) const {
  return absl::UnimplementedError("the fake engine has no weights");
}

void FakeEngine::SetDrift(std::vector<std::string> parameters,
                          bool repairable) {
  absl::MutexLock lock(&mu_);
  drift_ = std::move(parameters);
  repairable_ = repairable;
}

absl::StatusOr<Image> FakeEngine::Preview(const Generation& generation) {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kPreview));
  return static_cast<const FakeGeneration&>(generation).DrawSmall();
}

absl::StatusOr<Image> FakeEngine::Finish(Generation& generation) {
  GRAFT_RETURN_IF_ERROR(Enter(Call::kFinish));
  return static_cast<FakeGeneration&>(generation).Draw();
}

std::string FakeEngine::WeightsSha256() const {
  const std::string text = Describe(resident());
  return Sha256Hex(text.data(), text.size());
}

std::string FakeEngine::AddressesSha256() const { return std::string(64, 'a'); }

}  // namespace graft

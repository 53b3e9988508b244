#include "server/engine/weights/adapter_switcher.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/engine/device.h"
#include "server/engine/device_lost.h"
#include "server/engine/weights/prepared_weights.h"
#include "tests/testing/random_weights.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

// A base with every kind of module, small, with sizes that are no multiples of
// the kernels' blocks among them.
ModuleTable SmallModules() {
  ModuleTable table;
  table.modules = {
      {"text_encoder.fc", ModuleKind::kLinear, {16, 12}, true},
      {"unet.attn", ModuleKind::kLinear, {40, 36}, false},
      {"unet.conv", ModuleKind::kConv2d, {24, 8, 3, 3}, true},
      {"unet.large", ModuleKind::kLinear, {320, 160}, true},
      {"unet.norm", ModuleKind::kNorm, {40}, true},
      {"unet.proj", ModuleKind::kConv2d, {8, 8, 1, 1}, false},
  };
  return table;
}

// tests/gpu/run.sh runs the same tests on a GPU.
at::Device TestDevice() {
  const char* const name = std::getenv("GRAFT_TEST_DEVICE");
  EngineOptions options;
  options.device = name != nullptr ? name : "cpu";
  const auto choice = ChooseDevice(options);
  EXPECT_THAT(choice.status(), IsOk());
  return choice->device;
}

// The weights of such a base: the same for the same dtype.
std::unique_ptr<WeightStore> MakeStore(at::ScalarType dtype) {
  auto store = std::make_unique<WeightStore>(TestDevice(), dtype);
  at::manual_seed(1);
  const auto add = [&](const std::string& name, at::IntArrayRef shape) {
    const at::Tensor values = at::randn(shape);
    store->Add(name, {TensorDtype::kF32, shape.vec(),
                      absl::MakeConstSpan(
                          static_cast<const uint8_t*>(values.data_ptr()),
                          values.nbytes())});
  };
  for (const ModuleInfo& module : SmallModules().modules) {
    add(module.name + ".weight", module.weight_shape);
    if (module.has_bias) add(module.name + ".bias", {module.weight_shape[0]});
  }
  return store;
}

using Snapshot = std::map<std::string, std::string>;

Snapshot Bits(const WeightStore& store) {
  Snapshot bits;
  for (const auto& [name, tensor] : store.tensors()) {
    const at::Tensor host = tensor.to(at::kCPU);
    bits[name].assign(static_cast<const char*>(host.const_data_ptr()),
                      host.nbytes());
  }
  return bits;
}

// Writes `name` anew, as a repair from the model's files does.
void Repair(const WeightStore& store, const std::string& name,
            const Snapshot& base) {
  const at::Tensor live = store.at(name).view(at::kByte).flatten();
  live.copy_(at::from_blob(const_cast<char*>(base.at(name).data()),
                           live.sizes(), at::kByte));
}

// A base, its switcher, and adapters for it.
class Fixture {
 public:
  Fixture(at::ScalarType dtype, RestoreMode mode)
      : Fixture(dtype, mode, MakeSwitchPass(TestDevice())) {}
  Fixture(at::ScalarType dtype, RestoreMode mode,
          std::unique_ptr<SwitchPass> pass)
      : store(MakeStore(dtype)), switcher(store.get(), mode, std::move(pass)) {}

  PreparedAdapterPtr Adapter(const RandomWeightsOptions& options) {
    auto prepared = PreparedWeights::Create(
        RandomWeights(SmallModules(), options), *store, live_bytes);
    EXPECT_THAT(prepared.status(), IsOk());
    return *std::move(prepared);
  }

  std::shared_ptr<std::atomic<int64_t>> live_bytes =
      std::make_shared<std::atomic<int64_t>>(0);
  std::unique_ptr<WeightStore> store;
  AdapterSwitcher switcher;
};

class AdapterSwitcherTest
    : public ::testing::TestWithParam<std::tuple<at::ScalarType, RestoreMode>> {
 protected:
  at::ScalarType dtype() const { return std::get<0>(GetParam()); }
  RestoreMode mode() const { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(
    DtypesAndModes, AdapterSwitcherTest,
    ::testing::Combine(::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                       ::testing::Values(RestoreMode::kUndoLog,
                                         RestoreMode::kBackup)),
    [](const auto& info) {
      return absl::StrCat(
          c10::toString(std::get<0>(info.param)),
          std::get<1>(info.param) == RestoreMode::kUndoLog ? "Log" : "Backup");
    });

TEST_P(AdapterSwitcherTest, MergesScaledProductRoundedOnce) {
  Fixture f(dtype(), mode());
  AdapterWeights weights = RandomWeights(
      SmallModules(),
      {.kind = RandomWeightsKind::kLora, .seed = 3, .one_module_of = 1});
  const auto adapter = PreparedWeights::Create(weights, *f.store, f.live_bytes);
  ASSERT_THAT(adapter.status(), IsOk());
  const Snapshot before = Bits(*f.store);
  ASSERT_THAT(f.switcher.SwitchTo({{*adapter, 0.75, 0.75}}).status(), IsOk());
  int checked = 0;
  for (const AdapterTarget& target : weights.targets) {
    if (target.algorithm != AdapterAlgorithm::kLora) continue;
    ++checked;
    const std::string name = target.module + ".weight";
    const at::Tensor live = f.store->at(name).to(at::kCPU);
    const at::Tensor merged = live.to(at::kDouble);
    at::Tensor base = at::empty_like(live);
    std::memcpy(base.data_ptr(), before.at(name).data(), base.nbytes());
    const auto matrix = [&](FactorRole role) {
      const at::Tensor t = CopyToTensor(target.Find(role)->tensor);
      return t.reshape({t.size(0), -1}).to(at::kDouble);
    };
    const at::Tensor delta =
        0.75 * target.scale *
        at::mm(matrix(FactorRole::kUp), matrix(FactorRole::kDown))
            .view_as(base);
    const at::Tensor wide = base.to(at::kDouble);
    const at::Tensor error = (merged - wide - delta).abs();
    if (dtype() == at::kFloat) {
      EXPECT_LE(error.max().item<double>(), 2e-6) << name;
      // Tensor cores cut off where they add, at the size of the sums, so there
      // is no more to say of a small element.
      if (f.store->device().is_cuda()) continue;
    }
    // At most one unit in the last place of the largest of the three.
    const double unit = dtype() == at::kFloat      ? std::ldexp(1, -22)
                        : dtype() == at::kBFloat16 ? std::ldexp(1, -7)
                                                   : std::ldexp(1, -10);
    const at::Tensor largest =
        at::maximum(at::maximum(wide.abs(), delta.abs()), merged.abs());
    EXPECT_LE((error / largest).max().item<double>(), unit) << name;
  }
  EXPECT_GT(checked, 3);
}

// Promise 1: whatever ran before, weights depend on base and set alone. Every
// kind of adapter is among them, and refused sets.
TEST_P(AdapterSwitcherTest, WeightsDependOnBaseAndSetAlone) {
  Fixture f(dtype(), mode());
  std::vector<RandomWeightsOptions> options;
  for (const RandomWeightsKind kind : kAllRandomWeightsKinds) {
    const TensorDtype dtypes[] = {TensorDtype::kF32, TensorDtype::kF16,
                                  TensorDtype::kBF16};
    options.push_back({.kind = kind,
                       .seed = 10 + options.size(),
                       .dtype = dtypes[options.size() % 3],
                       .one_module_of = 1});
  }
  std::vector<PreparedAdapterPtr> adapters;
  for (const RandomWeightsOptions& option : options) {
    adapters.push_back(f.Adapter(option));
  }
  const Snapshot base = Bits(*f.store);
  std::set<Snapshot> seen;
  std::mt19937 random(5);
  for (int n = 0; n < 60; ++n) {
    Fixture fresh(dtype(), RestoreMode::kBackup);
    AdapterSet set, fresh_set;
    for (size_t i = 0; i < adapters.size() && set.size() < 4; ++i) {
      if (random() % 5 != 0) continue;
      const double weight = static_cast<double>(random() % 17) / 4 - 2;
      set.push_back({adapters[i], weight, -weight});
      fresh_set.push_back({fresh.Adapter(options[i]), weight, -weight});
    }
    const Snapshot former = Bits(*f.store);
    if (n % 10 == 9 && !set.empty()) {
      set.push_back(set.front());  // twice
      EXPECT_THAT(f.switcher.SwitchTo(set).status(),
                  HasReason(ErrorReason::kInvalidField));
      EXPECT_EQ(Bits(*f.store), former);
      continue;
    }
    ASSERT_THAT(f.switcher.SwitchTo(set).status(), IsOk());
    ASSERT_THAT(fresh.switcher.SwitchTo(fresh_set).status(), IsOk());
    const Snapshot now = Bits(*f.store);
    ASSERT_EQ(now, Bits(*fresh.store)) << "switch " << n;
    seen.insert(now);
  }
  EXPECT_GT(seen.size(), 40u);
  ASSERT_THAT(f.switcher.SwitchTo({}).status(), IsOk());
  EXPECT_EQ(Bits(*f.store), base);
}

// Sets of products alone, one and two of them, each restored from its log.
TEST_P(AdapterSwitcherTest, GoesFromSetToSetAndBack) {
  Fixture f(dtype(), mode()), fresh(dtype(), mode());
  const auto lora = [](Fixture& to, uint64_t seed) {
    return to.Adapter({.kind = RandomWeightsKind::kLora,
                       .seed = seed,
                       .size = 0.02F,
                       .one_module_of = 1});
  };
  const Snapshot base = Bits(*f.store);
  const PreparedAdapterPtr a = lora(f, 1), b = lora(f, 2);
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 1}}).status(), IsOk());
  ASSERT_THAT(f.switcher.SwitchTo({{a, -1, 1}, {b, 0.5, 1}}).status(), IsOk());
  ASSERT_THAT(f.switcher.SwitchTo({{b, 1, 1}}).status(), IsOk());
  ASSERT_THAT(fresh.switcher.SwitchTo({{lora(fresh, 2), 1, 1}}).status(),
              IsOk());
  EXPECT_EQ(Bits(*f.store), Bits(*fresh.store));
  ASSERT_THAT(f.switcher.SwitchTo({}).status(), IsOk());
  EXPECT_EQ(Bits(*f.store), base);
}

// The same bits with one thread and with several.
TEST_P(AdapterSwitcherTest, BitsDoNotDependOnThreads) {
  Snapshot bits[2];
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    Fixture f(dtype(), mode());
    AdapterSet set;
    for (const RandomWeightsKind kind : kAllRandomWeightsKinds) {
      set.push_back({f.Adapter({.kind = kind,
                                .seed = static_cast<uint64_t>(kind) + 1,
                                .size = 0.02F,
                                .one_module_of = 1}),
                     1, 1});
    }
    ASSERT_THAT(f.switcher.SwitchTo(set).status(), IsOk());
    bits[threads - 1] = Bits(*f.store);
  }
  EXPECT_EQ(bits[0], bits[1]);
}

// Promise 3: wherever a switch fails, the former set is resident, exactly.
TEST_P(AdapterSwitcherTest, FailureAnywhereLeavesFormerSet) {
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr lora =
      f.Adapter({.kind = RandomWeightsKind::kLora, .seed = 1});
  const PreparedAdapterPtr mixed =
      f.Adapter({.kind = RandomWeightsKind::kMixed, .seed = 2});
  const PreparedAdapterPtr dora = f.Adapter(
      {.kind = RandomWeightsKind::kDora, .seed = 3, .one_module_of = 1});
  const AdapterSet sets[] = {
      {}, {{lora, 1, 1}}, {{dora, 1, 1}}, {{lora, 0.5, 1}, {mixed, -1, 1}}};
  int injected = 0;
  for (const AdapterSet& from : sets) {
    for (const AdapterSet& to : sets) {
      if (&from == &to) continue;
      ASSERT_THAT(f.switcher.SwitchTo(from).status(), IsOk());
      const Snapshot before = Bits(*f.store);
      const size_t members = f.switcher.current().size();
      // The n-th call fails, until there are not so many.
      for (int failing = 0;; ++failing) {
        std::atomic<int> calls{0};
        f.switcher.SetFaultForTesting(
            [&](absl::string_view, const std::string&) {
              if (calls++ == failing) throw std::runtime_error("injected");
            });
        absl::Status status;
        try {
          status = f.switcher.SwitchTo(to).status();
        } catch (const std::runtime_error&) {
          // Before the first write: the engine's wrapper catches it.
          status = absl::InternalError("injected");
        }
        if (calls <= failing) {
          EXPECT_THAT(status, IsOk());
          break;
        }
        ++injected;
        EXPECT_FALSE(status.ok());
        ASSERT_EQ(Bits(*f.store), before) << "failing at " << failing;
        EXPECT_EQ(f.switcher.current().size(), members);
      }
      f.switcher.SetFaultForTesting(nullptr);
    }
  }
  EXPECT_GT(injected, 100);
}

TEST_P(AdapterSwitcherTest, WritesNothingWhenTheSetIsResident) {
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr a = f.Adapter({.seed = 1});
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 1}}).status(), IsOk());
  f.switcher.SetFaultForTesting([](absl::string_view, const std::string&) {
    throw std::runtime_error("touched");
  });
  const auto report = f.switcher.SwitchTo({{a, 1, 1}});
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_FALSE(report->changed);
  EXPECT_EQ(report->duration, absl::ZeroDuration());
}

// Promise 4: also where the bound alone cannot tell, and where the change is a
// function of W0.
TEST_P(AdapterSwitcherTest, RefusesWhatWouldOverflow) {
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr good = f.Adapter({.seed = 1});
  ASSERT_THAT(f.switcher.SwitchTo({{good, 1, 1}}).status(), IsOk());
  const Snapshot before = Bits(*f.store);
  for (const RandomWeightsKind kind :
       {RandomWeightsKind::kLora, RandomWeightsKind::kLoha,
        RandomWeightsKind::kGlora, RandomWeightsKind::kDiff}) {
    const PreparedAdapterPtr huge =
        f.Adapter({.kind = kind, .seed = 9, .size = 3e18F, .one_module_of = 1});
    EXPECT_THAT(
        f.switcher.SwitchTo({{good, 1, 1}, {huge, 1e20, 1e20}}).status(),
        HasReason(ErrorReason::kAdapterNonFinite));
    EXPECT_EQ(Bits(*f.store), before);
  }
}

// The product is made before it is scaled: a small weight does not save it.
TEST_P(AdapterSwitcherTest, RefusesAProductThatOverflowsBeforeItIsScaled) {
  Fixture f(dtype(), mode());
  const Snapshot before = Bits(*f.store);
  for (const RandomWeightsKind kind :
       {RandomWeightsKind::kLora, RandomWeightsKind::kLoha}) {
    const PreparedAdapterPtr huge =
        f.Adapter({.kind = kind, .seed = 9, .size = 3e22F, .one_module_of = 1});
    EXPECT_THAT(f.switcher.SwitchTo({{huge, 1e-30, 1e-30}}).status(),
                HasReason(ErrorReason::kAdapterNonFinite));
    EXPECT_EQ(Bits(*f.store), before);
  }
}

// Nothing times infinity is no number.
TEST_P(AdapterSwitcherTest, RefusesAWeightThatOverflowsThoughTheProductIsZero) {
  Fixture f(dtype(), mode());
  const Snapshot before = Bits(*f.store);
  const PreparedAdapterPtr zero = f.Adapter({.seed = 9, .size = 0});
  EXPECT_THAT(f.switcher.SwitchTo({{zero, 1e300, 1e300}}).status(),
              HasReason(ErrorReason::kAdapterNonFinite));
  EXPECT_EQ(Bits(*f.store), before);
}

// W0 + D rounded once more in between, as it is not while it is merged, would
// be finite: found by search.
TEST(AdapterSwitcherOverflowTest, IsJudgedByTheFusedOperation) {
  const float w0 = -0.1317138671875F, diff = 85726.2734375F;
  const double weight = 0.7642946243286133;
  const auto view = [](const float& value) {
    return TensorView{
        TensorDtype::kF32,
        {1, 1},
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(&value),
                            sizeof(value))};
  };
  WeightStore store(TestDevice(), at::kHalf);
  store.Add("unet.one.weight", view(w0));
  AdapterSwitcher switcher(&store, RestoreMode::kUndoLog,
                           MakeSwitchPass(TestDevice()));
  AdapterWeights weights;
  weights.sha256 = std::string(64, 'a');
  AdapterTarget& target = weights.targets.emplace_back();
  target.module = "unet.one";
  target.algorithm = AdapterAlgorithm::kDiff;
  target.factors.push_back({FactorRole::kDiff, "", view(diff)});
  const auto adapter = PreparedWeights::Create(
      weights, store, std::make_shared<std::atomic<int64_t>>(0));
  ASSERT_THAT(adapter.status(), IsOk());
  EXPECT_THAT(switcher.SwitchTo({{*adapter, weight, weight}}).status(),
              HasReason(ErrorReason::kAdapterNonFinite));
  EXPECT_EQ(store.at("unet.one.weight").item<float>(), w0);
}

// A bit that flips in what is resident is noticed by the next switch that meets
// it, never carried on.
TEST_P(AdapterSwitcherTest, NoticesDrift) {
  if (mode() == RestoreMode::kBackup) GTEST_SKIP() << "never looks at it";
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr a = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 1, .one_module_of = 1});
  const PreparedAdapterPtr b = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 2, .one_module_of = 1});
  const Snapshot base = Bits(*f.store);
  const std::string name = "unet.large.weight";
  const at::Tensor bytes =
      f.store->at(name).view(at::kByte).flatten();  // shares the memory
  for (const AdapterSet& from : {AdapterSet{}, AdapterSet{{a, 1, 1}}}) {
    ASSERT_THAT(f.switcher.SwitchTo(from).status(), IsOk());
    bytes[1001].bitwise_xor_(0x10);
    const absl::Status status = f.switcher.SwitchTo({{b, 1, 1}}).status();
    EXPECT_THAT(status, HasReason(ErrorReason::kBaseWeightsDrift));
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(name));
    ASSERT_THAT(f.switcher.ForceBase(), IsOk());
    EXPECT_FALSE(f.switcher.IsPristine(name));
    EXPECT_TRUE(f.switcher.IsPristine("unet.attn.weight"));
    Repair(*f.store, name, base);
    EXPECT_TRUE(f.switcher.IsPristine(name));
    EXPECT_EQ(Bits(*f.store), base);
  }
}

// A bit that flips in a copy is noticed too, and gone with the copy when the
// base is forced.
TEST_P(AdapterSwitcherTest, NoticesDriftOfACopy) {
  if (mode() == RestoreMode::kUndoLog) GTEST_SKIP() << "keeps no copy";
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr a = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 1, .one_module_of = 1});
  const PreparedAdapterPtr b = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 2, .one_module_of = 1});
  const Snapshot base = Bits(*f.store);
  const std::string name = "unet.large.weight";
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 1}}).status(), IsOk());
  const at::Tensor copy = f.switcher.CopyForTesting(name);
  copy.view(at::kByte).flatten()[1001].bitwise_xor_(0x10);
  EXPECT_THAT(f.switcher.SwitchTo({{b, 1, 1}}).status(),
              HasReason(ErrorReason::kBaseWeightsDrift));
  ASSERT_THAT(f.switcher.ForceBase(), IsOk());
  Repair(*f.store, name, base);
  EXPECT_TRUE(f.switcher.IsPristine(name));
  EXPECT_EQ(Bits(*f.store), base);
  EXPECT_THAT(f.switcher.SwitchTo({{b, 1, 1}}).status(), IsOk());
  EXPECT_THAT(f.switcher.SwitchTo({}).status(), IsOk());
}

// Fails as a device does: its runs, from now on, with the errors given.
class FailingPass : public SwitchPass {
 public:
  void FailWith(std::vector<absl::Status> errors) {
    errors_ = std::move(errors);
    runs_ = 0;
  }
  size_t runs() const { return runs_; }  // since then

  TileGrid Grid(const at::Tensor& parameter) const override {
    return pass_->Grid(parameter);
  }
  void Reserve(int max_rank, int max_terms) override {
    pass_->Reserve(max_rank, max_terms);
  }
  absl::Status ResetLog(int log,
                        absl::Span<const ParameterSwitch> parameters) override {
    return pass_->ResetLog(log, parameters);
  }
  int64_t log_bytes(int log) const override { return pass_->log_bytes(log); }
  int64_t reserved_log_bytes(int log) const override {
    return pass_->reserved_log_bytes(log);
  }
  absl::Status Run(SwitchWork& work) override {
    const absl::Status status = pass_->Run(work);
    const size_t run = runs_++;
    return run < errors_.size() ? errors_[run] : status;
  }
  void Checksum(const at::Tensor& live, const TileGrid& grid,
                uint64_t* sums) override {
    pass_->Checksum(live, grid, sums);
  }

 private:
  const std::unique_ptr<SwitchPass> pass_ = MakeSwitchPass(TestDevice());
  std::vector<absl::Status> errors_;
  size_t runs_ = 0;
};

// Nothing is rolled back on it, and nobody gives up: the error goes to whoever
// ends the process. Found at the switch, at restoring the base, or where the
// former set is merged again.
TEST_P(AdapterSwitcherTest, SaysThatTheDeviceIsLost) {
  const absl::Status ok, full = absl::InternalError("no memory"),
                         lost = DeviceLostError("700");
  const std::vector<absl::Status> sequences[] = {
      {lost}, {full, lost}, {full, ok, lost}, {full, ok, ok, lost}};
  for (const std::vector<absl::Status>& errors : sequences) {
    auto failing = std::make_unique<FailingPass>();
    FailingPass& pass = *failing;
    Fixture f(dtype(), mode(), std::move(failing));
    AdapterSet sets[2];
    for (const uint64_t i : {0, 1}) {
      sets[i] = {{f.Adapter({.kind = RandomWeightsKind::kLora,
                             .seed = i + 1,
                             .one_module_of = 1}),
                  1, 1}};
    }
    ASSERT_THAT(f.switcher.SwitchTo(sets[0]).status(), IsOk());
    pass.FailWith(errors);
    EXPECT_TRUE(IsDeviceLost(f.switcher.SwitchTo(sets[1]).status()));
    EXPECT_EQ(pass.runs(), errors.size());
  }
}

// Before the first write there is nothing to roll back, and no memory that a
// rollback would need has to be found.
TEST_P(AdapterSwitcherTest, AFailureBeforeTheFirstWriteTouchesNothing) {
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr a = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 1, .one_module_of = 1});
  const PreparedAdapterPtr b = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 2, .one_module_of = 1});
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 1}}).status(), IsOk());
  // What has drifted would not survive that all is restored and merged again.
  const at::Tensor weights = f.store->at("unet.large.weight");
  weights.view(at::kByte).flatten()[1001].bitwise_xor_(0x10);
  const Snapshot before = Bits(*f.store);
  f.switcher.SetFaultForTesting(
      [](absl::string_view phase, const std::string&) {
        if (phase == "write") throw std::runtime_error("injected");
      });
  EXPECT_FALSE(f.switcher.SwitchTo({{b, 1, 1}}).ok());
  EXPECT_EQ(Bits(*f.store), before);
}

TEST_P(AdapterSwitcherTest, TellsWhatChangesTheTextEncoder) {
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr a = f.Adapter(
      {.kind = RandomWeightsKind::kLora, .seed = 1, .one_module_of = 1});
  EXPECT_EQ(f.switcher.text_encoder_state(), "");
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 0}}).status(), IsOk());
  EXPECT_EQ(f.switcher.text_encoder_state(), "");
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 0.5}}).status(), IsOk());
  const std::string half = f.switcher.text_encoder_state();
  EXPECT_NE(half, "");
  ASSERT_THAT(f.switcher.SwitchTo({{a, 2, 0.5}}).status(), IsOk());
  EXPECT_EQ(f.switcher.text_encoder_state(), half);
}

TEST_P(AdapterSwitcherTest, CountsWhatRestoringNeeds) {
  Fixture f(dtype(), mode());
  const PreparedAdapterPtr a = f.Adapter({.kind = RandomWeightsKind::kLora,
                                          .seed = 1,
                                          .size = 0.02F,
                                          .one_module_of = 1});
  EXPECT_EQ(f.switcher.restore_bytes(), 0);
  ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 1}}).status(), IsOk());
  const int64_t bytes = f.switcher.restore_bytes();
  EXPECT_GT(bytes, 0);
  if (mode() == RestoreMode::kUndoLog) {
    EXPECT_LT(bytes, f.store->total_bytes() / 10);
    ASSERT_THAT(f.switcher.SwitchTo({}).status(), IsOk());
    EXPECT_EQ(f.switcher.restore_bytes(), 0);
    EXPECT_GT(f.switcher.restore_reserved_bytes(), 0);
    ASSERT_THAT(f.switcher.SwitchTo({{a, 1, 1}}).status(), IsOk());
    ASSERT_THAT(f.switcher.ForceBase(), IsOk());
    EXPECT_EQ(f.switcher.restore_bytes(), 0);
  }
}

}  // namespace
}  // namespace graft

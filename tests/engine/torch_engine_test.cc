#include "server/engine/torch_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/sha256.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

using ::testing::HasSubstr;

// One random LoRA over some of the base's modules; `seed` decides everything.
AdapterWeights RandomLora(const ModuleTable& modules, uint64_t seed,
                          float size = 0.1F) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, size);
  auto storage = std::make_shared<std::vector<std::vector<float>>>();
  AdapterWeights weights;
  weights.sha256 = Sha256Hex(&seed, sizeof(seed));
  const int rank = 1 + static_cast<int>(random() % 5);
  const auto factor = [&](FactorRole role, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    std::vector<float>& values = storage->emplace_back(count);
    for (float& value : values) value = normal(random);
    TensorView view{
        TensorDtype::kF32, std::move(shape),
        absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()),
                            values.size() * sizeof(float))};
    return AdapterFactor{role, "key", std::move(view)};
  };
  for (const ModuleInfo& module : modules.modules) {
    const bool matrix = module.kind == ModuleKind::kLinear ||
                        module.kind == ModuleKind::kConv2d;
    if (!matrix || random() % 2 == 0) continue;
    AdapterTarget target;
    target.module = module.name;
    target.rank = rank;
    target.scale = 0.5 + static_cast<double>(random() % 4) / 4;
    std::vector<int64_t> down = module.weight_shape;
    down[0] = rank;
    target.factors.push_back(factor(FactorRole::kDown, down));
    target.factors.push_back(
        factor(FactorRole::kUp, {module.weight_shape[0], rank}));
    weights.targets.push_back(std::move(target));
  }
  weights.storage = storage;
  return weights;
}

class TorchEngineTest : public ::testing::TestWithParam<ComputeDtype> {
 protected:
  TorchEngineTest() { WriteTinyModel(folder_.path(), {}); }

  std::unique_ptr<Engine> NewEngine() const {
    EngineOptions options;
    options.model_dir = folder_.path();
    // tests/gpu/run.sh runs the same tests on a GPU.
    const char* const device = std::getenv("GRAFT_TEST_DEVICE");
    options.device = device != nullptr ? device : "cpu";
    options.dtype = GetParam();
    options.threads = 1;
    auto engine = CreateTorchEngine(options);
    EXPECT_THAT(engine.status(), IsOk());
    return *std::move(engine);
  }

  static PreparedAdapterPtr Prepare(const Engine& engine, uint64_t seed,
                                    float size = 0.1F) {
    auto prepared = engine.Prepare(RandomLora(engine.modules(), seed, size));
    EXPECT_THAT(prepared.status(), IsOk());
    return *std::move(prepared);
  }

  static Image Draw(Engine& engine, const GenerationParams& params) {
    auto generation = engine.Begin(params);
    EXPECT_THAT(generation.status(), IsOk());
    Generation* const raw = generation->get();
    while (raw->steps_done() < raw->steps_total()) {
      EXPECT_THAT(engine.Step({&raw, 1}), IsOk());
    }
    auto image = engine.Finish(*raw);
    EXPECT_THAT(image.status(), IsOk());
    return *std::move(image);
  }

  static GenerationParams SmallParams() {
    GenerationParams params;
    params.prompt = "a star";
    params.width = 16;
    params.height = 16;
    params.steps = 2;
    params.guidance_scale = 3;
    return params;
  }

  const TempDir folder_;
};

INSTANTIATE_TEST_SUITE_P(AllDtypes, TorchEngineTest,
                         ::testing::Values(ComputeDtype::kFloat32,
                                           ComputeDtype::kBFloat16,
                                           ComputeDtype::kFloat16));

// Promise 1 and 2: after every one of 200 random switches, refused ones among
// them, the weights are those of an engine that made one switch to that set,
// and they are where they were.
TEST_P(TorchEngineTest, WeightsDependOnBaseAndSetAlone) {
  constexpr int kAdapters = 6;
  constexpr int kSwitches = 200;
  const std::unique_ptr<Engine> engine = NewEngine();
  const std::unique_ptr<Engine> oracle = NewEngine();
  std::vector<PreparedAdapterPtr> adapters, oracle_adapters;
  for (int i = 0; i < kAdapters; ++i) {
    adapters.push_back(Prepare(*engine, 100 + i));
    oracle_adapters.push_back(Prepare(*oracle, 100 + i));
  }
  const std::string base = engine->WeightsSha256();
  const std::string addresses = engine->AddressesSha256();
  std::mt19937 random(7);
  std::string last_good = base;
  std::set<std::string> seen = {base};
  for (int n = 0; n < kSwitches; ++n) {
    AdapterSet set, oracle_set;
    for (int i = 0; i < kAdapters; ++i) {
      if (random() % 3 != 0 || set.size() == 4) continue;
      const double weight = static_cast<double>(random() % 9) / 2 - 2;
      set.push_back({adapters[i], weight, -weight});
      oracle_set.push_back({oracle_adapters[i], weight, -weight});
    }
    if (!set.empty() && n % 10 == 0) {
      set.push_back(set.front());  // named twice: refused
      EXPECT_FALSE(engine->SwitchAdapters(set).ok());
      EXPECT_EQ(engine->WeightsSha256(), last_good) << "switch " << n;
      continue;
    }
    ASSERT_THAT(engine->SwitchAdapters(set).status(), IsOk());
    // The oracle comes from the base: it never switches from set to set.
    ASSERT_THAT(oracle->SwitchAdapters({}).status(), IsOk());
    ASSERT_EQ(oracle->WeightsSha256(), base);
    ASSERT_THAT(oracle->SwitchAdapters(oracle_set).status(), IsOk());
    last_good = engine->WeightsSha256();
    ASSERT_EQ(last_good, oracle->WeightsSha256()) << "switch " << n;
    seen.insert(last_good);
  }
  EXPECT_GT(seen.size(), 100u);  // the sets did differ
  EXPECT_EQ(engine->AddressesSha256(), addresses);
  ASSERT_THAT(engine->SwitchAdapters({}).status(), IsOk());
  EXPECT_EQ(engine->WeightsSha256(), NewEngine()->WeightsSha256());
}

TEST_P(TorchEngineTest, OrderOfASetHasNoMeaning) {
  const std::unique_ptr<Engine> engine = NewEngine();
  const WeightedAdapter a{Prepare(*engine, 1), 0.7, 0.7};
  const WeightedAdapter b{Prepare(*engine, 2), -0.3, 0.2};
  ASSERT_THAT(engine->SwitchAdapters({a, b}).status(), IsOk());
  const std::string ab = engine->WeightsSha256();
  const auto again = engine->SwitchAdapters({b, a});
  ASSERT_THAT(again.status(), IsOk());
  EXPECT_FALSE(again->changed);
  ASSERT_THAT(engine->SwitchAdapters({}).status(), IsOk());
  ASSERT_THAT(engine->SwitchAdapters({b, a}).status(), IsOk());
  EXPECT_EQ(engine->WeightsSha256(), ab);
}

TEST_P(TorchEngineTest, WeightZeroIsNotMerged) {
  const std::unique_ptr<Engine> engine = NewEngine();
  const std::string base = engine->WeightsSha256();
  ASSERT_THAT(engine->SwitchAdapters({{Prepare(*engine, 1), 0, 0}}).status(),
              IsOk());
  EXPECT_EQ(engine->WeightsSha256(), base);
}

// Promise 4.
TEST_P(TorchEngineTest, RefusesAMergeThatOverflows) {
  const std::unique_ptr<Engine> engine = NewEngine();
  const PreparedAdapterPtr good = Prepare(*engine, 1);
  const PreparedAdapterPtr huge = Prepare(*engine, 2, 1e19F);
  ASSERT_THAT(engine->SwitchAdapters({{good, 1, 1}}).status(), IsOk());
  const std::string before = engine->WeightsSha256();
  const Image image = Draw(*engine, SmallParams());
  EXPECT_THAT(engine->SwitchAdapters({{good, 1, 1}, {huge, 2, 2}}).status(),
              HasReason(ErrorReason::kAdapterNonFinite));
  EXPECT_EQ(engine->WeightsSha256(), before);
  EXPECT_EQ(Draw(*engine, SmallParams()).rgb, image.rgb);
}

TEST_P(TorchEngineTest, RefusesFactorsThatAreNotFinite) {
  const std::unique_ptr<Engine> engine = NewEngine();
  AdapterWeights weights = RandomLora(engine->modules(), 3);
  std::vector<float> values(weights.targets[0].factors[1].tensor.num_elements(),
                            0);
  values.back() = std::numeric_limits<float>::quiet_NaN();
  weights.targets[0].factors[1].tensor.bytes =
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(values.data()),
                          values.size() * sizeof(float));
  weights.targets[0].factors[1].key = "some.lora_up.weight";
  const auto prepared = engine->Prepare(weights);
  EXPECT_THAT(prepared.status(), HasReason(ErrorReason::kAdapterNonFinite));
  EXPECT_THAT(prepared.status().message(), HasSubstr("some.lora_up.weight"));
}

// Promise 7, within one process: whatever ran before, the same request gives
// the same picture.
TEST_P(TorchEngineTest, SamePictureWhateverRanBefore) {
  const std::unique_ptr<Engine> engine = NewEngine();
  const PreparedAdapterPtr adapter = Prepare(*engine, 1);
  for (const std::string& sampler : SamplerNames()) {
    GenerationParams params = SmallParams();
    params.sampler = sampler;
    const Image base = Draw(*engine, params);
    EXPECT_EQ(base.width, 16);
    EXPECT_EQ(base.rgb.size(), 16u * 16u * 3u);
    ASSERT_THAT(engine->SwitchAdapters({{adapter, 2, 2}}).status(), IsOk());
    EXPECT_NE(Draw(*engine, params).rgb, base.rgb) << sampler;
    params.seed = 5;
    EXPECT_NE(Draw(*engine, params).rgb, base.rgb) << sampler;
    params.seed = 0;
    ASSERT_THAT(engine->SwitchAdapters({}).status(), IsOk());
    EXPECT_EQ(Draw(*engine, params).rgb, base.rgb) << sampler;
  }
}

TEST_P(TorchEngineTest, PromptsAndGuidanceMatter) {
  const std::unique_ptr<Engine> engine = NewEngine();
  const GenerationParams params = SmallParams();
  const Image image = Draw(*engine, params);
  GenerationParams other = params;
  other.prompt = "a moon";
  EXPECT_NE(Draw(*engine, other).rgb, image.rgb);
  other = params;
  other.negative_prompt = "a moon";
  EXPECT_NE(Draw(*engine, other).rgb, image.rgb);
  other = params;
  other.guidance_scale = 1;
  const Image unguided = Draw(*engine, other);
  EXPECT_NE(unguided.rgb, image.rgb);
  // Without guidance the negative prompt is not looked at.
  other.negative_prompt = "a moon";
  EXPECT_EQ(Draw(*engine, other).rgb, unguided.rgb);
}

TEST_P(TorchEngineTest, DrawsSizesThatGetOddOnTheWayDown) {
  const std::unique_ptr<Engine> engine = NewEngine();
  GenerationParams params = SmallParams();
  params.width = 18;  // 9 latent pixels, 5 one level down
  params.height = 10;
  const Image image = Draw(*engine, params);
  EXPECT_EQ(image.width, 18);
  EXPECT_EQ(image.height, 10);
}

TEST_P(TorchEngineTest, RefusesWhatTheModelCannotDo) {
  const std::unique_ptr<Engine> engine = NewEngine();
  GenerationParams params = SmallParams();
  params.steps = 1001;
  EXPECT_THAT(engine->Begin(params).status(),
              HasReason(ErrorReason::kInvalidField));
  params = SmallParams();
  params.sampler = "magic";
  EXPECT_THAT(engine->Begin(params).status(),
              HasReason(ErrorReason::kInvalidField));
}

TEST_P(TorchEngineTest, CountsTokensThatDidNotFit) {
  const std::unique_ptr<Engine> engine = NewEngine();
  GenerationParams params = SmallParams();
  params.prompt = "abcdefghijklmnopqrst";  // 20 tokens, room for 14
  const auto generation = engine->Begin(params);
  ASSERT_THAT(generation.status(), IsOk());
  EXPECT_EQ((*generation)->truncated_tokens(), 6);
}

TEST_P(TorchEngineTest, CountsMemory) {
  const std::unique_ptr<Engine> engine = NewEngine();
  EXPECT_GT(engine->memory().base_bytes, 0);
  EXPECT_EQ(engine->memory().adapter_bytes, 0);
  {
    const PreparedAdapterPtr adapter = Prepare(*engine, 1);
    EXPECT_EQ(engine->memory().adapter_bytes, adapter->bytes());
    EXPECT_EQ(engine->memory().restore_bytes, 0);
    ASSERT_THAT(engine->SwitchAdapters({{adapter, 1, 1}}).status(), IsOk());
    EXPECT_GT(engine->memory().restore_bytes, 0);
  }
  EXPECT_GT(engine->memory().adapter_bytes, 0);  // still merged
  ASSERT_THAT(engine->SwitchAdapters({}).status(), IsOk());
  EXPECT_EQ(engine->memory().adapter_bytes, 0);
}

}  // namespace
}  // namespace graft

#include "server/engine/torch_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/sha256.h"
#include "server/safetensors/safetensors_file.h"
#include "tests/testing/full_size.h"
#include "tests/testing/random_weights.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// How many random switches; the full figure of a release is 10000.
int NumSwitches() { return SizeOfTest("GRAFT_TEST_SWITCHES", 1000); }

// A diffusers folder to switch in, in place of the tiny one; for
// WeightsDependOnBaseAndSetAlone at full size.
const char* OwnModel() { return std::getenv("GRAFT_TEST_MODEL"); }

class TorchEngineTest
    : public ::testing::TestWithParam<std::tuple<ComputeDtype, RestoreMode>> {
 protected:
  TorchEngineTest() { WriteTinyModel(folder_.path(), {}); }

  std::unique_ptr<Engine> NewEngine() const {
    return NewEngine(std::get<1>(GetParam()));
  }

  std::unique_ptr<Engine> NewEngine(RestoreMode restore,
                                    SwitchFault fault = nullptr) const {
    EngineOptions options;
    options.model_dir = OwnModel() != nullptr ? OwnModel() : folder_.path();
    // tests/gpu/run.sh runs the same tests on a GPU.
    const char* const device = std::getenv("GRAFT_TEST_DEVICE");
    options.device = device != nullptr ? device : "cpu";
    options.dtype = std::get<0>(GetParam());
    options.restore = restore;
    options.threads = 1;
    auto engine = CreateTorchEngineForTesting(options, std::move(fault));
    EXPECT_THAT(engine.status(), IsOk());
    return *std::move(engine);
  }

  static PreparedAdapterPtr Prepare(const Engine& engine, uint64_t seed,
                                    float size = 0.1F) {
    return Prepare(engine, {.seed = seed, .size = size});
  }

  static PreparedAdapterPtr Prepare(const Engine& engine,
                                    const RandomWeightsOptions& options) {
    auto prepared = engine.Prepare(RandomWeights(engine.modules(), options));
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

INSTANTIATE_TEST_SUITE_P(
    DtypesAndModes, TorchEngineTest,
    ::testing::Combine(
        ::testing::Values(ComputeDtype::kFloat32, ComputeDtype::kBFloat16,
                          ComputeDtype::kFloat16),
        ::testing::Values(RestoreMode::kUndoLog, RestoreMode::kBackup)));

// One adapter of every kind, in files of every dtype.
std::vector<RandomWeightsOptions> AllKinds() {
  std::vector<RandomWeightsOptions> options;
  const TensorDtype dtypes[] = {TensorDtype::kF32, TensorDtype::kF16,
                                TensorDtype::kBF16};
  for (const RandomWeightsKind kind : kAllRandomWeightsKinds) {
    options.push_back({.kind = kind,
                       .seed = 100 + options.size(),
                       .dtype = dtypes[options.size() % 3],
                       .one_module_of = OwnModel() != nullptr ? 30 : 2});
  }
  return options;
}

// Which of AllKinds() a set has, each how strongly.
using SetRecipe = std::map<size_t, double>;

SetRecipe RandomRecipe(size_t kinds, std::mt19937& random) {
  SetRecipe recipe;
  const size_t members = random() % 5;
  while (recipe.size() < members) {
    recipe[random() % kinds] = static_cast<double>(random() % 33) / 8 - 2;
  }
  return recipe;
}

// Fails at one of the next moments at which a switch can.
class SwitchSaboteur {
 public:
  // The n-th moment from now, counted from 0, fails.
  void Arm(int n) { left_ = n + 1; }
  // Whether it did; disarmed afterwards.
  bool Disarm() { return left_.exchange(0) < 0; }

  SwitchFault fault() {
    return [this](absl::string_view phase, const std::string& name) {
      if (left_ <= 0 || --left_ > 0) return;
      left_ = -1;
      throw std::runtime_error(absl::StrCat("injected at ", phase, " ", name));
    };
  }

 private:
  std::atomic<int> left_{0};
};

AdapterSet MakeSet(const SetRecipe& recipe,
                   const std::vector<PreparedAdapterPtr>& adapters) {
  AdapterSet set;
  for (const auto& [kind, weight] : recipe) {
    set.push_back({adapters[kind], weight, -weight});
  }
  return set;
}

// Promise 1 and 2: after every one of many random switches between sets of all
// kinds of adapters, refused ones and failures half-way among them, the weights
// are those of a fresh engine that made one switch to that set, and they are
// where they were.
TEST_P(TorchEngineTest, WeightsDependOnBaseAndSetAlone) {
  SwitchSaboteur saboteur;
  const std::unique_ptr<Engine> engine =
      NewEngine(std::get<1>(GetParam()), saboteur.fault());
  const std::vector<RandomWeightsOptions> kinds = AllKinds();
  std::vector<PreparedAdapterPtr> adapters;
  for (const RandomWeightsOptions& kind : kinds) {
    adapters.push_back(Prepare(*engine, kind));
  }
  const PreparedAdapterPtr huge =
      Prepare(*engine, {.kind = RandomWeightsKind::kLora,
                        .seed = 1,
                        .size = 3e18F,
                        .one_module_of = 1});
  const std::string addresses = engine->AddressesSha256();

  // Recipes come again, so that fresh engines need not be made for each.
  std::mt19937 random(7);
  std::vector<SetRecipe> recipes = {{}};
  while (recipes.size() < 60) {
    recipes.push_back(RandomRecipe(kinds.size(), random));
  }
  std::map<SetRecipe, std::string> expected;
  const auto expect = [&](const SetRecipe& recipe) -> const std::string& {
    std::string& digest = expected[recipe];
    if (digest.empty()) {
      // The other mode too: both give the same bits.
      const std::unique_ptr<Engine> fresh =
          NewEngine(expected.size() % 2 == 0 ? RestoreMode::kBackup
                                             : RestoreMode::kUndoLog);
      std::vector<PreparedAdapterPtr> own(kinds.size());
      for (const auto& [kind, weight] : recipe) {
        own[kind] = Prepare(*fresh, kinds[kind]);
      }
      EXPECT_THAT(fresh->SwitchAdapters(MakeSet(recipe, own)).status(), IsOk());
      digest = fresh->WeightsSha256();
    }
    return digest;
  };

  SetRecipe resident;
  int failures = 0;
  for (int n = 0; n < NumSwitches(); ++n) {
    const SetRecipe& recipe = recipes[random() % recipes.size()];
    AdapterSet set = MakeSet(recipe, adapters);
    if (n % 10 == 0) {
      set.push_back({huge, 1e20, 1e20});
      ASSERT_THAT(engine->SwitchAdapters(set).status(),
                  HasReason(ErrorReason::kAdapterNonFinite));
    } else {
      if (n % 10 == 5) saboteur.Arm(static_cast<int>(random() % 200));
      const absl::Status status = engine->SwitchAdapters(set).status();
      if (saboteur.Disarm()) {
        ++failures;
        ASSERT_THAT(status, HasReason(ErrorReason::kInternal));
      } else {
        ASSERT_THAT(status, IsOk());
        resident = recipe;
      }
    }
    ASSERT_EQ(engine->WeightsSha256(), expect(resident)) << "switch " << n;
  }
  EXPECT_GT(expected.size(), std::min<size_t>(40, NumSwitches() / 4));
  EXPECT_GT(failures, NumSwitches() / 25);
  EXPECT_EQ(engine->AddressesSha256(), addresses);
  const auto verified = engine->VerifyBaseWeights(/*repair=*/false);
  ASSERT_THAT(verified.status(), IsOk());
  EXPECT_THAT(verified->differing, IsEmpty());
  EXPECT_EQ(engine->WeightsSha256(), expect({}));
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
  const PreparedAdapterPtr huge =
      Prepare(*engine, {.kind = RandomWeightsKind::kLora,
                        .seed = 2,
                        .size = 1e19F,
                        .one_module_of = 1});
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
  AdapterWeights weights = RandomWeights(
      engine->modules(), {.kind = RandomWeightsKind::kLora, .seed = 3});
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
  const PreparedAdapterPtr adapter =
      Prepare(*engine, {.kind = RandomWeightsKind::kLora, .seed = 1});
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

// Several images in one run of the U-Net, with other samplers, steps and
// guidance: nearly the pictures that each gives alone.
TEST_P(TorchEngineTest, ImagesShareABatch) {
  const std::unique_ptr<Engine> engine = NewEngine();
  std::vector<GenerationParams> params(3, SmallParams());
  params[1].sampler = "euler";
  params[1].steps = 3;
  params[1].prompt = "a moon";
  params[2].guidance_scale = 1;
  params[2].seed = 9;
  std::vector<std::unique_ptr<Generation>> generations;
  for (const GenerationParams& p : params) {
    auto generation = engine->Begin(p);
    ASSERT_THAT(generation.status(), IsOk());
    generations.push_back(*std::move(generation));
  }
  for (int step = 0; step < 3; ++step) {
    std::vector<Generation*> batch;
    for (const auto& generation : generations) {
      if (generation->steps_done() < generation->steps_total()) {
        batch.push_back(generation.get());
      }
    }
    ASSERT_THAT(engine->Step(batch), IsOk());
  }
  for (size_t i = 0; i < params.size(); ++i) {
    const auto image = engine->Finish(*generations[i]);
    ASSERT_THAT(image.status(), IsOk());
    const Image alone = Draw(*engine, params[i]);
    ASSERT_EQ(image->rgb.size(), alone.rgb.size());
    double difference = 0;
    for (size_t j = 0; j < alone.rgb.size(); ++j) {
      difference += std::abs(int{image->rgb[j]} - int{alone.rgb[j]});
    }
    EXPECT_LT(difference / static_cast<double>(alone.rgb.size()), 1.0) << i;
  }
}

// A switch between two steps acts from the next step on, on the prompt's
// encoding too; switching away and back changes nothing.
TEST_P(TorchEngineTest, SwitchesBetweenSteps) {
  const std::unique_ptr<Engine> engine = NewEngine();
  const PreparedAdapterPtr adapter = Prepare(
      *engine,
      {.kind = RandomWeightsKind::kLora, .seed = 1, .one_module_of = 1});
  const AdapterSet unet_only = {{adapter, 2, 0}}, both = {{adapter, 2, 2}};
  const auto draw = [&](const AdapterSet& first, const AdapterSet& then,
                        bool detour) {
    EXPECT_THAT(engine->SwitchAdapters(first).status(), IsOk());
    auto generation = *engine->Begin(SmallParams());
    Generation* const raw = generation.get();
    EXPECT_THAT(engine->Step({&raw, 1}), IsOk());
    if (detour) {
      EXPECT_THAT(engine->SwitchAdapters({{adapter, -1, 1}}).status(), IsOk());
      Draw(*engine, SmallParams());
    }
    EXPECT_THAT(engine->SwitchAdapters(then).status(), IsOk());
    EXPECT_THAT(engine->Step({&raw, 1}), IsOk());
    return engine->Finish(*raw)->rgb;
  };
  const auto base = draw({}, {}, false);
  const auto late = draw({}, unet_only, false);
  const auto late_both = draw({}, both, false);
  EXPECT_NE(late, base);
  EXPECT_NE(late_both, late);
  EXPECT_NE(draw(both, both, false), late_both);
  EXPECT_EQ(draw({}, {}, true), base);
  EXPECT_EQ(draw({}, both, true), late_both);
}

TEST_P(TorchEngineTest, PreviewsOfEachSamplerFollowTheSteps) {
  const std::unique_ptr<Engine> engine = NewEngine();
  GenerationParams params = SmallParams();
  for (const std::string& sampler : SamplerNames()) {
    params.sampler = sampler;
    auto generation = *engine->Begin(params);
    Generation* const raw = generation.get();
    std::vector<Image> previews;
    while (raw->steps_done() < raw->steps_total()) {
      ASSERT_THAT(engine->Step({&raw, 1}), IsOk());
      const auto preview = engine->Preview(*raw);
      ASSERT_THAT(preview.status(), IsOk());
      EXPECT_EQ(preview->width, params.width / 2);  // a pixel per latent's
      EXPECT_EQ(preview->height, params.height / 2);
      previews.push_back(*preview);
    }
    EXPECT_NE(previews.front().rgb, previews.back().rgb) << sampler;
  }
}

TEST_P(TorchEngineTest, ExportsWhatIsResident) {
  const std::unique_ptr<Engine> engine = NewEngine();
  ASSERT_THAT(engine->SwitchAdapters({{Prepare(*engine, 1), 1, 1}}).status(),
              IsOk());
  const std::string path = folder_.path() + "/merged.safetensors";
  ASSERT_THAT(engine->ExportWeights(path, {{"base_sha256", "x"}}), IsOk());
  const auto file = SafetensorsFile::Map(path, {});
  ASSERT_THAT(file.status(), IsOk());
  EXPECT_EQ(file->metadata().at("base_sha256"), "x");
  Sha256 hash;
  for (const auto& [name, tensor] : file->tensors()) {
    hash.Update(name);
    hash.Update(tensor.bytes.data(), tensor.bytes.size());
  }
  EXPECT_EQ(hash.HexDigest(), engine->WeightsSha256());
  EXPECT_FALSE(
      engine->ExportWeights(folder_.path() + "/no/such/folder", {}).ok());
}

// So that its tensors can stand in for the folder's own files.
TEST_P(TorchEngineTest, AnExportOfTheBaseHasTheTensorsOfTheFolder) {
  const std::string path = folder_.File("base.safetensors");
  ASSERT_THAT(NewEngine()->ExportWeights(path, {}), IsOk());
  const auto file = SafetensorsFile::Map(path, {});
  ASSERT_THAT(file.status(), IsOk());
  size_t found = 0;
  for (const auto& [prefix, own] :
       {std::pair("unet.", "unet/diffusion_pytorch_model.safetensors"),
        std::pair("text_encoder.", "text_encoder/model.safetensors")}) {
    const auto folder = SafetensorsFile::Map(folder_.File(own), {});
    ASSERT_THAT(folder.status(), IsOk());
    for (const auto& [name, tensor] : folder->tensors()) {
      const auto exported = file->tensors().find(absl::StrCat(prefix, name));
      ASSERT_NE(exported, file->tensors().end()) << prefix << name;
      EXPECT_EQ(exported->second.shape, tensor.shape);
      if (exported->second.dtype == tensor.dtype) {
        EXPECT_EQ(exported->second.bytes, tensor.bytes) << prefix << name;
      }
      ++found;
    }
  }
  EXPECT_EQ(found, file->tensors().size());
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
    const PreparedAdapterPtr adapter =
        Prepare(*engine, {.kind = RandomWeightsKind::kLora, .seed = 1});
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

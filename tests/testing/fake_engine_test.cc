#include "tests/testing/fake_engine.h"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using Call = FakeEngine::Call;

GenerationParams Params() {
  GenerationParams params;
  params.prompt = "a star";
  params.width = 16;
  params.height = 8;
  params.steps = 3;
  return params;
}

AdapterSet SetOf(const FakeEngine& engine, const std::string& sha256,
                 double weight = 1) {
  AdapterWeights weights;
  weights.sha256 = sha256;
  return {{engine.Prepare(weights).value(), weight, weight}};
}

// Runs a generation; between the steps, switches to `then` if it is given.
Image Generate(FakeEngine& engine, const AdapterSet* then = nullptr) {
  const auto generation = engine.Begin(Params()).value();
  Generation* const batch[] = {generation.get()};
  while (generation->steps_done() < generation->steps_total()) {
    EXPECT_THAT(engine.Step(batch), IsOk());
    if (then != nullptr) {
      EXPECT_THAT(engine.SwitchAdapters(*then), IsOk());
    }
  }
  return engine.Finish(*generation).value();
}

TEST(FakeEngineTest, TheImageIsAFunctionOfSetAndParams) {
  FakeEngine engine;
  EXPECT_EQ(Generate(engine).rgb, FakeEngine::ExpectedImage(Params(), {}).rgb);
  ASSERT_THAT(engine.SwitchAdapters(SetOf(engine, "x", 0.5)), IsOk());
  const Image image = Generate(engine);
  EXPECT_EQ(image.rgb.size(), 16u * 8 * 3);
  EXPECT_EQ(image.rgb,
            FakeEngine::ExpectedImage(Params(), {{"x", 0.5, 0.5}}).rgb);
  EXPECT_NE(image.rgb, FakeEngine::ExpectedImage(Params(), {{"x", 1, 1}}).rgb);
  GenerationParams other = Params();
  other.seed = 1;
  EXPECT_NE(image.rgb, FakeEngine::ExpectedImage(other, {{"x", 0.5, 0.5}}).rgb);
}

TEST(FakeEngineTest, ASwitchInTheMiddleShowsInTheImage) {
  FakeEngine engine;
  const AdapterSet set = SetOf(engine, "x");
  const Image image = Generate(engine, &set);
  EXPECT_NE(image.rgb, FakeEngine::ExpectedImage(Params(), {}).rgb);
  EXPECT_NE(image.rgb, FakeEngine::ExpectedImage(Params(), {{"x", 1, 1}}).rgb);
}

TEST(FakeEngineTest, TheImageOfAScheduleIsAFunctionOfItsSets) {
  FakeEngine engine;
  const AdapterSet set = SetOf(engine, "x");
  // Begin and step 0 with the base, the others with "x".
  EXPECT_EQ(Generate(engine, &set).rgb,
            FakeEngine::ExpectedScheduledImage(
                Params(), {{}, {{"x", 1, 1}}, {{"x", 1, 1}}})
                .rgb);
}

TEST(FakeEngineTest, RecordsSwitchesThatChangeSomething) {
  FakeEngine engine;
  const AdapterSet set = SetOf(engine, "x");
  EXPECT_FALSE(engine.SwitchAdapters({})->changed);
  EXPECT_TRUE(engine.SwitchAdapters(set)->changed);
  EXPECT_FALSE(engine.SwitchAdapters(set)->changed);
  EXPECT_TRUE(engine.SwitchAdapters({})->changed);
  EXPECT_THAT(engine.switches(), ElementsAre(FakeSet{{"x", 1, 1}}, FakeSet{}));
  EXPECT_EQ(engine.calls(Call::kSwitch), 4);
}

TEST(FakeEngineTest, RefusesAnAdapterNamedTwice) {
  FakeEngine engine;
  AdapterSet set = SetOf(engine, "x");
  set.push_back(SetOf(engine, "x", 2)[0]);
  EXPECT_THAT(engine.SwitchAdapters(set),
              HasReason(ErrorReason::kInvalidField));
}

TEST(FakeEngineTest, FailsWhereItIsTold) {
  FakeEngine engine;
  engine.Fail(Call::kSwitch, Error(ErrorReason::kInternal, "switch"));
  EXPECT_THAT(engine.SwitchAdapters(SetOf(engine, "x")),
              HasReason(ErrorReason::kInternal));
  EXPECT_TRUE(engine.resident().empty());
  engine.FailStep(1, Error(ErrorReason::kNonFiniteLatents, "step"));
  const auto generation = engine.Begin(Params()).value();
  Generation* const batch[] = {generation.get()};
  EXPECT_THAT(engine.Step(batch), IsOk());
  EXPECT_THAT(engine.Step(batch), HasReason(ErrorReason::kNonFiniteLatents));
  EXPECT_EQ(generation->steps_done(), 1);
}

TEST(FakeEngineTest, OneOfABatchFailsAndTheOthersAreDone) {
  FakeEngine engine;
  GenerationParams other = Params();
  other.seed = 1;
  engine.FailSeed(1, 0, Error(ErrorReason::kNonFiniteLatents, "step"));
  const auto good = engine.Begin(Params()).value();
  const auto bad = engine.Begin(other).value();
  Generation* const batch[] = {good.get(), bad.get()};
  EXPECT_THAT(engine.Step(batch), HasReason(ErrorReason::kNonFiniteLatents));
  EXPECT_THAT(good->status(), IsOk());
  EXPECT_EQ(good->steps_done(), 1);
  EXPECT_THAT(bad->status(), HasReason(ErrorReason::kNonFiniteLatents));
  EXPECT_EQ(bad->steps_done(), 0);
  EXPECT_THAT(engine.batches(), ElementsAre(ElementsAre(0, 1)));
}

TEST(FakeEngineTest, LargeBatchesFailAsAWhole) {
  FakeEngine engine;
  engine.FailBatchesAbove(1, Error(ErrorReason::kGpuOutOfMemory, "2"));
  const auto one = engine.Begin(Params()).value();
  const auto two = engine.Begin(Params()).value();
  Generation* const both[] = {one.get(), two.get()};
  EXPECT_THAT(engine.Step(both), HasReason(ErrorReason::kGpuOutOfMemory));
  EXPECT_EQ(one->steps_done(), 0);
  EXPECT_THAT(one->status(), IsOk());
  EXPECT_THAT(engine.Step(absl::MakeConstSpan(both, 1)), IsOk());
}

TEST(FakeEngineTest, BlocksUntilLetThrough) {
  FakeEngine engine;
  engine.Block(Call::kBegin);
  std::thread thread([&engine] {
    EXPECT_THAT(engine.Begin(Params()), IsOk());
    EXPECT_THAT(engine.Begin(Params()), IsOk());
  });
  ASSERT_TRUE(engine.WaitUntilBlocked(Call::kBegin));
  EXPECT_TRUE(engine.begun().empty());
  engine.LetOneThrough(Call::kBegin);
  engine.Unblock(Call::kBegin);
  thread.join();
  EXPECT_EQ(engine.begun().size(), 2u);
  EXPECT_EQ(engine.live_generations(), 0);
}

}  // namespace
}  // namespace graft

#include "server/engine/pipeline/latent_generation.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/common/error.h"
#include "server/engine/models/base_model.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

// Takes a little of the model's output off; throws at step `faulty`.
class FaultySampler : public Sampler {
 public:
  explicit FaultySampler(int faulty = -1)
      : Sampler({900, 500, 100}), faulty_(faulty) {}

 protected:
  at::Tensor Advance(const at::Tensor& model_output, const at::Tensor& latents,
                     at::Generator&) override {
    TORCH_CHECK(step_ != faulty_, "injected");
    return latents - 0.1 * model_output;
  }

 private:
  const int faulty_;
};

class LatentGenerationTest : public ::testing::Test {
 protected:
  LatentGenerationTest() {
    WriteTinyModel(folder_.path(), {});
    model_ = LoadBaseModel(folder_.path(), at::kCPU, at::kFloat).value();
  }

  std::unique_ptr<LatentGeneration> Make(uint64_t seed, int faulty = -1) const {
    GenerationParams params;
    params.seed = seed;
    const at::Tensor text =
        at::ones({1, 4, model_.text_config.hidden_size}) * 0.1;
    return std::make_unique<LatentGeneration>(
        std::move(params), TextConditioning{text, text, 0, ""},
        std::make_unique<FaultySampler>(faulty), at::IntArrayRef({1, 4, 8, 8}),
        at::kCPU);
  }

  absl::Status Step(const std::vector<LatentGeneration*>& batch) const {
    return DenoiseStep(*model_.unet, batch, /*threads=*/nullptr);
  }

  const c10::InferenceMode inference_;
  const TempDir folder_;
  BaseModel model_;
};

TEST_F(LatentGenerationTest, AnExceptionInOneAdvanceIsThatGenerationsAlone) {
  const auto first = Make(1), faulty = Make(2, /*faulty=*/1), last = Make(3);
  const auto whole_first = Make(1), whole = Make(2), whole_last = Make(3);
  for (int step = 0; step < 2; ++step) {
    ASSERT_THAT(Step({whole_first.get(), whole.get(), whole_last.get()}),
                IsOk());
  }

  ASSERT_THAT(Step({first.get(), faulty.get(), last.get()}), IsOk());
  EXPECT_THAT(Step({first.get(), faulty.get(), last.get()}),
              HasReason(ErrorReason::kInternal));
  EXPECT_THAT(faulty->status(), HasReason(ErrorReason::kInternal));
  EXPECT_THAT(first->status(), IsOk());
  EXPECT_THAT(last->status(), IsOk());
  // Their step is done, and done once.
  EXPECT_EQ(first->steps_done(), 2);
  EXPECT_EQ(last->steps_done(), 2);
  EXPECT_TRUE(at::equal(first->latents(), whole_first->latents()));
  EXPECT_TRUE(at::equal(last->latents(), whole_last->latents()));
}

}  // namespace
}  // namespace graft

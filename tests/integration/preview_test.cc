// Previews of a model that was trained: its VAE means something.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "server/engine/torch_engine.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

// One channel of `image`, the mean of each square of `side` pixels.
std::vector<double> Shrink(const Image& image, int side, int channel) {
  const int width = image.width / side;
  std::vector<double> means(static_cast<size_t>(width * image.height / side));
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      means[static_cast<size_t>(y / side * width + x / side)] +=
          image.rgb[static_cast<size_t>(3 * (y * image.width + x) + channel)] /
          static_cast<double>(side * side);
    }
  }
  return means;
}

double Correlation(const std::vector<double>& a, const std::vector<double>& b) {
  double mean_a = 0, mean_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    mean_a += a[i] / static_cast<double>(a.size());
    mean_b += b[i] / static_cast<double>(a.size());
  }
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean_a) * (b[i] - mean_b);
    aa += (a[i] - mean_a) * (a[i] - mean_a);
    bb += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ab / std::sqrt(aa * bb);
}

TEST(PreviewTest, LooksLikeTheImage) {
  EngineOptions options;
  options.model_dir = GRAFT_DEMO_MODEL;
  options.device = "cpu";
  auto engine = CreateTorchEngine(options);
  ASSERT_THAT(engine.status(), IsOk());
  GenerationParams params;
  params.prompt = "a red circle left of a blue square";
  params.width = (*engine)->info().default_width;
  params.height = (*engine)->info().default_height;
  params.steps = 12;
  params.guidance_scale = 2;
  auto generation = (*engine)->Begin(params);
  ASSERT_THAT(generation.status(), IsOk());
  Generation* const raw = generation->get();
  Image preview;
  while (raw->steps_done() < raw->steps_total()) {
    ASSERT_THAT((*engine)->Step({&raw, 1}), IsOk());
    if (raw->steps_done() == params.steps * 3 / 4) {
      preview = (*engine)->Preview(*raw).value();
    }
  }
  const Image image = (*engine)->Finish(*raw).value();
  const int side = image.width / preview.width;
  ASSERT_EQ(preview.height * side, image.height);
  for (int channel = 0; channel < 3; ++channel) {
    EXPECT_GT(
        Correlation(Shrink(preview, 1, channel), Shrink(image, side, channel)),
        0.8)
        << "channel " << channel;
  }
}

}  // namespace
}  // namespace graft

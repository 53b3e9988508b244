#include "tests/gpu/unet_shapes.h"

#include "absl/strings/str_cat.h"

namespace graft {
namespace {

struct Level {
  int64_t channels;
  int depth;  // transformer blocks behind each residual block, 0 for none
};

struct UnetConfig {
  std::vector<Level> levels;
  int64_t text_width;
};

constexpr int kLayersPerBlock = 2;

UnetConfig ConfigOf(const std::string& model) {
  if (model == "sdxl") return {{{320, 0}, {640, 2}, {1280, 10}}, 2048};
  if (model == "sd15") {
    return {{{320, 1}, {640, 1}, {1280, 1}, {1280, 0}}, 768};
  }
  return {{{32, 1}, {64, 1}}, 48};
}

class Builder {
 public:
  explicit Builder(UnetConfig config)
      : config_(std::move(config)),
        time_width_(4 * config_.levels.front().channels) {}

  // As the U-Net is built: down, middle, up, where each residual block of the
  // way up also gets what one of the way down put out.
  std::vector<WeightShape> Build() {
    const std::vector<Level>& levels = config_.levels;
    int64_t channels = levels.front().channels;
    std::vector<int64_t> skipped = {channels};
    for (size_t i = 0; i < levels.size(); ++i) {
      for (int layer = 0; layer < kLayersPerBlock; ++layer) {
        AddBlock(channels, levels[i]);
        channels = levels[i].channels;
        skipped.push_back(channels);
      }
      if (i + 1 == levels.size()) break;
      Add("downsampler", {channels, channels, 3, 3}, TargetSet::kLocon);
      skipped.push_back(channels);
    }
    // The middle has as many transformer blocks as the deepest level that has
    // any.
    Level middle = levels.back();
    if (middle.depth == 0) middle.depth = levels[levels.size() - 2].depth;
    AddBlock(channels, middle);
    AddBlock(channels, {middle.channels, 0});
    for (size_t i = levels.size(); i-- > 0;) {
      for (int layer = 0; layer <= kLayersPerBlock; ++layer) {
        AddBlock(channels + skipped.back(), levels[i]);
        channels = levels[i].channels;
        skipped.pop_back();
      }
      if (i == 0) break;
      Add("upsampler", {channels, channels, 3, 3}, TargetSet::kLocon);
    }
    return std::move(shapes_);
  }

 private:
  void Add(const std::string& name, std::vector<int64_t> shape, TargetSet in) {
    shapes_.push_back({absl::StrCat("unet.", shapes_.size(), ".", name),
                       std::move(shape), in});
  }

  void AddBlock(int64_t in, const Level& level) {
    const int64_t out = level.channels;
    Add("conv1", {out, in, 3, 3}, TargetSet::kLocon);
    Add("time_emb_proj", {out, time_width_}, TargetSet::kLocon);
    Add("conv2", {out, out, 3, 3}, TargetSet::kLocon);
    if (in != out) Add("conv_shortcut", {out, in, 1, 1}, TargetSet::kLocon);
    if (level.depth == 0) return;
    Add("proj_in", {out, out}, TargetSet::kTransformers);
    for (int i = 0; i < level.depth; ++i) AddTransformerBlock(out);
    Add("proj_out", {out, out}, TargetSet::kTransformers);
  }

  void AddTransformerBlock(int64_t width) {
    for (const int64_t context : {width, config_.text_width}) {
      Add("to_q", {width, width}, TargetSet::kAttention);
      Add("to_k", {width, context}, TargetSet::kAttention);
      Add("to_v", {width, context}, TargetSet::kAttention);
      Add("to_out", {width, width}, TargetSet::kAttention);
    }
    Add("ff.proj", {8 * width, width}, TargetSet::kTransformers);
    Add("ff.out", {width, 4 * width}, TargetSet::kTransformers);
  }

  const UnetConfig config_;
  const int64_t time_width_;
  std::vector<WeightShape> shapes_;
};

}  // namespace

std::vector<WeightShape> UnetShapes(const std::string& model) {
  return Builder(ConfigOf(model)).Build();
}

}  // namespace graft

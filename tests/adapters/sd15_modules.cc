#include "tests/adapters/sd15_modules.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft {
namespace {

constexpr int64_t kChannels[] = {320, 640, 1280, 1280};
constexpr int64_t kTimeWidth = 1280;
constexpr int64_t kTextWidth = 768;

class TableBuilder {
 public:
  void Linear(absl::string_view name, int64_t out, int64_t in,
              bool has_bias = true) {
    table_.modules.push_back(
        {std::string(name), ModuleKind::kLinear, {out, in}, has_bias});
  }
  void Conv(absl::string_view name, int64_t out, int64_t in, int64_t kernel) {
    table_.modules.push_back({std::string(name),
                              ModuleKind::kConv2d,
                              {out, in, kernel, kernel},
                              true});
  }
  void Norm(absl::string_view name, int64_t channels) {
    table_.modules.push_back(
        {std::string(name), ModuleKind::kNorm, {channels}, true});
  }
  void Embedding(absl::string_view name, int64_t rows, int64_t width) {
    table_.modules.push_back(
        {std::string(name), ModuleKind::kEmbedding, {rows, width}, false});
  }

  void Resnet(const std::string& path, int64_t in, int64_t out) {
    Norm(path + ".norm1", in);
    Conv(path + ".conv1", out, in, 3);
    Linear(path + ".time_emb_proj", out, kTimeWidth);
    Norm(path + ".norm2", out);
    Conv(path + ".conv2", out, out, 3);
    if (in != out) Conv(path + ".conv_shortcut", out, in, 1);
  }

  void CrossAttention(const std::string& path, int64_t width,
                      int64_t context_width) {
    Linear(path + ".to_q", width, width, false);
    Linear(path + ".to_k", width, context_width, false);
    Linear(path + ".to_v", width, context_width, false);
    Linear(path + ".to_out.0", width, width);
  }

  void Transformer(const std::string& path, int64_t width) {
    Norm(path + ".norm", width);
    Conv(path + ".proj_in", width, width, 1);
    const std::string block = path + ".transformer_blocks.0";
    CrossAttention(block + ".attn1", width, width);
    CrossAttention(block + ".attn2", width, kTextWidth);
    Linear(block + ".ff.net.0.proj", 8 * width, width);
    Linear(block + ".ff.net.2", width, 4 * width);
    for (const char* norm : {".norm1", ".norm2", ".norm3"}) {
      Norm(block + norm, width);
    }
    Conv(path + ".proj_out", width, width, 1);
  }

  void DownBlock(int index) {
    const std::string path = absl::StrCat("unet.down_blocks.", index);
    const int64_t out = kChannels[index];
    int64_t in = index == 0 ? out : kChannels[index - 1];
    for (int layer = 0; layer < 2; ++layer, in = out) {
      Resnet(absl::StrCat(path, ".resnets.", layer), in, out);
      if (index < 3)
        Transformer(absl::StrCat(path, ".attentions.", layer), out);
    }
    if (index < 3) Conv(path + ".downsamplers.0.conv", out, out, 3);
  }

  void UpBlock(int index) {
    const std::string path = absl::StrCat("unet.up_blocks.", index);
    const int64_t out = kChannels[3 - index];
    const int64_t skip = kChannels[std::max(2 - index, 0)];
    int64_t in = index == 0 ? out : kChannels[4 - index];
    for (int layer = 0; layer < 3; ++layer, in = out) {
      const int64_t skipped = layer < 2 ? out : skip;
      Resnet(absl::StrCat(path, ".resnets.", layer), in + skipped, out);
      if (index > 0)
        Transformer(absl::StrCat(path, ".attentions.", layer), out);
    }
    if (index < 3) Conv(path + ".upsamplers.0.conv", out, out, 3);
  }

  void Unet() {
    Conv("unet.conv_in", 320, 4, 3);
    Linear("unet.time_embedding.linear_1", kTimeWidth, 320);
    Linear("unet.time_embedding.linear_2", kTimeWidth, kTimeWidth);
    for (int block = 0; block < 4; ++block) DownBlock(block);
    Resnet("unet.mid_block.resnets.0", 1280, 1280);
    Transformer("unet.mid_block.attentions.0", 1280);
    Resnet("unet.mid_block.resnets.1", 1280, 1280);
    for (int block = 0; block < 4; ++block) UpBlock(block);
    Norm("unet.conv_norm_out", 320);
    Conv("unet.conv_out", 4, 320, 3);
  }

  void TextEncoder() {
    const std::string root = "text_encoder.text_model";
    Embedding(root + ".embeddings.token_embedding", 49408, kTextWidth);
    Embedding(root + ".embeddings.position_embedding", 77, kTextWidth);
    for (int layer = 0; layer < 12; ++layer) {
      const std::string path = absl::StrCat(root, ".encoder.layers.", layer);
      for (const char* name : {"q", "k", "v", "out"}) {
        Linear(absl::StrCat(path, ".self_attn.", name, "_proj"), kTextWidth,
               kTextWidth);
      }
      Linear(path + ".mlp.fc1", 4 * kTextWidth, kTextWidth);
      Linear(path + ".mlp.fc2", kTextWidth, 4 * kTextWidth);
      Norm(path + ".layer_norm1", kTextWidth);
      Norm(path + ".layer_norm2", kTextWidth);
    }
    Norm(root + ".final_layer_norm", kTextWidth);
  }

  ModuleTable Build() && {
    std::sort(table_.modules.begin(), table_.modules.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return std::move(table_);
  }

  ModuleTable table_{BaseFamily::kSd1, 2, {}};
};

}  // namespace

ModuleTable Sd15Modules() {
  TableBuilder builder;
  builder.Unet();
  builder.TextEncoder();
  return std::move(builder).Build();
}

}  // namespace graft

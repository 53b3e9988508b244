#include "server/adapters/unet_paths.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace graft {
namespace {

struct Renaming {
  absl::string_view ours;
  absl::string_view original;
};

constexpr Renaming kEdgeModules[] = {
    {"conv_in", "input_blocks.0.0"},
    {"time_embedding.linear_1", "time_embed.0"},
    {"time_embedding.linear_2", "time_embed.2"},
    {"add_embedding.linear_1", "label_emb.0.0"},
    {"add_embedding.linear_2", "label_emb.0.2"},
    {"conv_norm_out", "out.0"},
    {"conv_out", "out.2"},
};

constexpr Renaming kResnetModules[] = {
    {"norm1", "in_layers.0"},          {"conv1", "in_layers.2"},
    {"time_emb_proj", "emb_layers.1"}, {"norm2", "out_layers.0"},
    {"conv2", "out_layers.3"},         {"conv_shortcut", "skip_connection"},
};

template <size_t N>
std::optional<std::string> Rename(const Renaming (&table)[N],
                                  absl::string_view path) {
  for (const Renaming& row : table) {
    if (path == row.ours) return std::string(row.original);
  }
  return std::nullopt;
}

// Takes "N." from the front of `path`.
bool ConsumeIndex(absl::string_view& path, int& index) {
  const size_t dot = path.find('.');
  if (dot == absl::string_view::npos ||
      !absl::SimpleAtoi(path.substr(0, dot), &index)) {
    return false;
  }
  path.remove_prefix(dot + 1);
  return true;
}

// Takes `prefix` and "N." from the front of `path`.
bool ConsumeIndexed(absl::string_view& path, absl::string_view prefix,
                    int& index) {
  return absl::ConsumePrefix(&path, prefix) && ConsumeIndex(path, index);
}

// "<block>.<place>.<path within a resnet>", if there is such a module.
std::optional<std::string> Resnet(absl::string_view block, int number,
                                  absl::string_view place,
                                  absl::string_view path) {
  const std::optional<std::string> inner = Rename(kResnetModules, path);
  if (!inner.has_value()) return std::nullopt;
  return absl::StrCat(block, number, place, *inner);
}

}  // namespace

UnetPaths::UnetPaths(const ModuleTable& modules)
    : layers_(modules.unet_layers_per_block + 1) {
  for (const ModuleInfo& module : modules.modules) {
    absl::string_view path = module.name;
    int block = 0;
    if (ConsumeIndexed(path, "unet.up_blocks.", block) &&
        absl::ConsumePrefix(&path, "attentions.")) {
      up_blocks_with_attention_.insert(block);
    }
  }
}

std::optional<std::string> UnetPaths::ToOriginal(absl::string_view path) const {
  if (layers_ == 1) return std::nullopt;  // the levels differ: no numbering
  if (absl::ConsumePrefix(&path, "down_blocks.")) return DownBlock(path);
  if (absl::ConsumePrefix(&path, "mid_block.")) return MidBlock(path);
  if (absl::ConsumePrefix(&path, "up_blocks.")) return UpBlock(path);
  return Rename(kEdgeModules, path);
}

std::optional<std::string> UnetPaths::DownBlock(absl::string_view path) const {
  int block = 0;
  if (!ConsumeIndex(path, block)) return std::nullopt;
  if (path == "downsamplers.0.conv") {
    return absl::StrCat("input_blocks.", layers_ * (block + 1), ".0.op");
  }
  int layer = 0;
  if (ConsumeIndexed(path, "resnets.", layer)) {
    return Resnet("input_blocks.", 1 + layers_ * block + layer, ".0.", path);
  }
  if (ConsumeIndexed(path, "attentions.", layer)) {
    return absl::StrCat("input_blocks.", 1 + layers_ * block + layer, ".1.",
                        path);
  }
  return std::nullopt;
}

std::optional<std::string> UnetPaths::MidBlock(absl::string_view path) const {
  int layer = 0;
  if (ConsumeIndexed(path, "resnets.", layer)) {
    return Resnet("middle_block.", 2 * layer, ".", path);
  }
  if (ConsumeIndexed(path, "attentions.", layer)) {
    return absl::StrCat("middle_block.", 2 * layer + 1, ".", path);
  }
  return std::nullopt;
}

std::optional<std::string> UnetPaths::UpBlock(absl::string_view path) const {
  int block = 0;
  if (!ConsumeIndex(path, block)) return std::nullopt;
  if (path == "upsamplers.0.conv") {
    const int place = up_blocks_with_attention_.count(block) > 0 ? 2 : 1;
    return absl::StrCat("output_blocks.", layers_ * (block + 1) - 1, ".", place,
                        ".conv");
  }
  int layer = 0;
  if (ConsumeIndexed(path, "resnets.", layer)) {
    return Resnet("output_blocks.", layers_ * block + layer, ".0.", path);
  }
  if (ConsumeIndexed(path, "attentions.", layer)) {
    return absl::StrCat("output_blocks.", layers_ * block + layer, ".1.", path);
  }
  return std::nullopt;
}

}  // namespace graft

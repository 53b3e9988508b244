#include "tests/testing/tiny_model.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

namespace fs = std::filesystem;

void WriteFile(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

// Collects the tensors of one component with random values of a sane size.
class RandomWeights {
 public:
  explicit RandomWeights(uint64_t seed) : random_(seed) {}

  void Linear(const std::string& name, int in, int out, bool bias = true) {
    Add(name + ".weight", {out, in}, 1.0 / std::sqrt(in), 0);
    if (bias) Add(name + ".bias", {out}, 0.1, 0);
  }
  void Conv(const std::string& name, int in, int out, int kernel) {
    Add(name + ".weight", {out, in, kernel, kernel},
        1.0 / std::sqrt(in * kernel * kernel), 0);
    Add(name + ".bias", {out}, 0.1, 0);
  }
  void Norm(const std::string& name, int width) {
    Add(name + ".weight", {width}, 0.1, 1);
    Add(name + ".bias", {width}, 0.1, 0);
  }
  void Resnet(const std::string& name, int in, int out, int time_width) {
    Norm(name + ".norm1", in);
    Conv(name + ".conv1", in, out, 3);
    if (time_width > 0) Linear(name + ".time_emb_proj", time_width, out);
    Norm(name + ".norm2", out);
    Conv(name + ".conv2", out, out, 3);
    if (in != out) Conv(name + ".conv_shortcut", in, out, 1);
  }
  void Add(const std::string& name, std::vector<int64_t> shape, double scale,
           double mean) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    std::normal_distribution<double> normal(mean, scale);
    std::vector<double> values(count);
    for (double& value : values) value = normal(random_);
    builder_.Add(name, TensorDtype::kF32, std::move(shape), std::move(values));
  }

  std::string Build() const { return builder_.Build(); }

 private:
  std::mt19937_64 random_;
  AdapterFileBuilder builder_;
};

void AddTransformer(const std::string& name, int width,
                    const TinyModelOptions& o, RandomWeights& w) {
  w.Norm(name + ".norm", width);
  for (const char* projection : {".proj_in", ".proj_out"}) {
    if (o.use_linear_projection) {
      w.Linear(name + projection, width, width);
    } else {
      w.Conv(name + projection, width, width, 1);
    }
  }
  const std::string block = name + ".transformer_blocks.0";
  for (const char* norm : {".norm1", ".norm2", ".norm3"}) {
    w.Norm(block + norm, width);
  }
  for (const auto& [attention, context] :
       {std::pair<std::string, int>{".attn1", width},
        std::pair<std::string, int>{".attn2", o.text_width}}) {
    w.Linear(block + attention + ".to_q", width, width, false);
    w.Linear(block + attention + ".to_k", context, width, false);
    w.Linear(block + attention + ".to_v", context, width, false);
    w.Linear(block + attention + ".to_out.0", width, width);
  }
  w.Linear(block + ".ff.net.0.proj", width, 8 * width);
  w.Linear(block + ".ff.net.2", 4 * width, width);
}

// All levels but the lowest have attention, as in SD 1.x.
std::string UnetWeights(const TinyModelOptions& o) {
  RandomWeights w(o.seed);
  const auto& widths = o.unet_widths;
  const int levels = static_cast<int>(widths.size());
  const int time_width = 4 * widths[0];
  w.Conv("conv_in", 4, widths[0], 3);
  w.Linear("time_embedding.linear_1", widths[0], time_width);
  w.Linear("time_embedding.linear_2", time_width, time_width);
  for (int i = 0; i < levels; ++i) {
    const std::string block = absl::StrCat("down_blocks.", i);
    for (int j = 0; j < o.unet_layers; ++j) {
      w.Resnet(absl::StrCat(block, ".resnets.", j),
               j == 0 ? widths[std::max(i - 1, 0)] : widths[i], widths[i],
               time_width);
      if (i + 1 < levels) {
        AddTransformer(absl::StrCat(block, ".attentions.", j), widths[i], o, w);
      }
    }
    if (i + 1 < levels) {
      w.Conv(block + ".downsamplers.0.conv", widths[i], widths[i], 3);
    }
  }
  const int top = widths.back();
  w.Resnet("mid_block.resnets.0", top, top, time_width);
  AddTransformer("mid_block.attentions.0", top, o, w);
  w.Resnet("mid_block.resnets.1", top, top, time_width);
  for (int i = 0; i < levels; ++i) {
    const int level = levels - 1 - i;
    const std::string block = absl::StrCat("up_blocks.", i);
    for (int j = 0; j <= o.unet_layers; ++j) {
      const int before =
          j == 0 ? widths[std::min(level + 1, levels - 1)] : widths[level];
      const int skip =
          j == o.unet_layers ? widths[std::max(level - 1, 0)] : widths[level];
      w.Resnet(absl::StrCat(block, ".resnets.", j), before + skip,
               widths[level], time_width);
      if (i > 0) {
        AddTransformer(absl::StrCat(block, ".attentions.", j), widths[level], o,
                       w);
      }
    }
    if (level > 0) {
      w.Conv(block + ".upsamplers.0.conv", widths[level], widths[level], 3);
    }
  }
  w.Norm("conv_norm_out", widths[0]);
  w.Conv("conv_out", widths[0], 4, 3);
  return w.Build();
}

std::string TextWeights(const TinyModelOptions& o, int vocab_size,
                        int positions) {
  RandomWeights w(o.seed + 1);
  const int width = o.text_width;
  w.Add("text_model.embeddings.token_embedding.weight", {vocab_size, width}, 1,
        0);
  w.Add("text_model.embeddings.position_embedding.weight", {positions, width},
        0.3, 0);
  for (int i = 0; i < o.text_layers; ++i) {
    const std::string layer = absl::StrCat("text_model.encoder.layers.", i);
    w.Norm(layer + ".layer_norm1", width);
    for (const char* projection : {"q_proj", "k_proj", "v_proj", "out_proj"}) {
      w.Linear(absl::StrCat(layer, ".self_attn.", projection), width, width);
    }
    w.Norm(layer + ".layer_norm2", width);
    w.Linear(layer + ".mlp.fc1", width, 4 * width);
    w.Linear(layer + ".mlp.fc2", 4 * width, width);
  }
  w.Norm("text_model.final_layer_norm", width);
  return w.Build();
}

std::string VaeWeights(const TinyModelOptions& o) {
  RandomWeights w(o.seed + 2);
  const auto& widths = o.vae_widths;
  const int levels = static_cast<int>(widths.size());
  const int top = widths.back();
  w.Conv("post_quant_conv", 4, 4, 1);
  w.Conv("decoder.conv_in", 4, top, 3);
  w.Resnet("decoder.mid_block.resnets.0", top, top, 0);
  w.Norm("decoder.mid_block.attentions.0.group_norm", top);
  for (const char* projection : {"to_q", "to_k", "to_v", "to_out.0"}) {
    w.Linear(absl::StrCat("decoder.mid_block.attentions.0.", projection), top,
             top);
  }
  w.Resnet("decoder.mid_block.resnets.1", top, top, 0);
  int in = top;
  for (int i = 0; i < levels; ++i) {
    const std::string block = absl::StrCat("decoder.up_blocks.", i);
    const int out = widths[levels - 1 - i];
    w.Resnet(block + ".resnets.0", in, out, 0);
    w.Resnet(block + ".resnets.1", out, out, 0);
    if (i + 1 < levels) w.Conv(block + ".upsamplers.0.conv", out, out, 3);
    in = out;
  }
  w.Norm("decoder.conv_norm_out", in);
  w.Conv("decoder.conv_out", in, 3, 3);
  return w.Build();
}

// GPT-2's printable stand-ins for the 256 bytes, the alphabet of CLIP's
// vocabulary.
std::vector<std::string> ByteAlphabet() {
  const auto utf8 = [](int code) {
    if (code < 0x80) return std::string(1, static_cast<char>(code));
    return std::string{static_cast<char>(0xC0 | (code >> 6)),
                       static_cast<char>(0x80 | (code & 0x3F))};
  };
  std::vector<std::string> alphabet;
  std::vector<std::string> others;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) ||
                           (byte >= 161 && byte <= 172) || byte >= 174;
    if (printable) {
      alphabet.push_back(utf8(byte));
    } else {
      others.push_back(utf8(256 + static_cast<int>(others.size())));
    }
  }
  alphabet.insert(alphabet.end(), others.begin(), others.end());
  return alphabet;
}

int WriteTokenizer(const fs::path& folder, int positions) {
  nlohmann::json vocab;
  int id = 0;
  for (const char* ending : {"", "</w>"}) {
    for (const std::string& letter : ByteAlphabet()) {
      vocab[letter + ending] = id++;
    }
  }
  vocab["<|startoftext|>"] = id++;
  vocab["<|endoftext|>"] = id++;
  WriteFile(folder / "vocab.json", vocab.dump());
  WriteFile(folder / "merges.txt", "#version: 0.2\n");
  WriteFile(folder / "tokenizer_config.json",
            absl::StrCat(R"({"tokenizer_class": "CLIPTokenizer",
      "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
      "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
      "model_max_length": )",
                         positions, "}"));
  return id;
}

// "A", "B", "B" for two levels: the lowest differs.
std::string BlockTypes(int levels, const std::string& with,
                       const std::string& without, bool plain_first) {
  std::vector<std::string> types(levels, absl::StrCat("\"", with, "\""));
  types[plain_first ? 0 : levels - 1] = absl::StrCat("\"", without, "\"");
  return absl::StrCat("[", absl::StrJoin(types, ", "), "]");
}

}  // namespace

void WriteTinyModel(const std::string& folder, const TinyModelOptions& o) {
  constexpr int kPositions = 16;
  const fs::path root(folder);
  WriteFile(root / "model_index.json", R"({
    "_class_name": "StableDiffusionPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"]})");
  WriteFile(root / "scheduler/scheduler_config.json",
            absl::StrCat("{", o.scheduler, "}"));
  const int vocab_size = WriteTokenizer(root / "tokenizer", kPositions);
  WriteFile(root / "text_encoder/config.json",
            absl::StrCat("{\"vocab_size\": ", vocab_size,
                         ", \"hidden_size\": ", o.text_width,
                         ", \"intermediate_size\": ", 4 * o.text_width,
                         ", \"num_hidden_layers\": ", o.text_layers,
                         ", \"num_attention_heads\": 2",
                         ", \"max_position_embeddings\": ", kPositions, "}"));
  WriteFile(root / "text_encoder/model.safetensors",
            TextWeights(o, vocab_size, kPositions));
  const int levels = static_cast<int>(o.unet_widths.size());
  WriteFile(
      root / "unet/config.json",
      absl::StrCat(
          "{\"block_out_channels\": [", absl::StrJoin(o.unet_widths, ", "),
          "], \"layers_per_block\": ", o.unet_layers,
          ", \"attention_head_dim\": ", o.unet_heads,
          ", \"cross_attention_dim\": ", o.text_width,
          ", \"norm_num_groups\": ", o.groups, ", \"sample_size\": 8",
          ", \"use_linear_projection\": ",
          o.use_linear_projection ? "true" : "false",
          ", \"down_block_types\": ",
          BlockTypes(levels, "CrossAttnDownBlock2D", "DownBlock2D", false),
          ", \"up_block_types\": ",
          BlockTypes(levels, "CrossAttnUpBlock2D", "UpBlock2D", true), "}"));
  WriteFile(root / "unet/diffusion_pytorch_model.safetensors", UnetWeights(o));
  WriteFile(root / "vae/config.json",
            absl::StrCat("{\"block_out_channels\": [",
                         absl::StrJoin(o.vae_widths, ", "),
                         "], \"layers_per_block\": 1, \"latent_channels\": 4",
                         ", \"norm_num_groups\": ", o.groups, "}"));
  WriteFile(root / "vae/diffusion_pytorch_model.safetensors", VaeWeights(o));
}

}  // namespace graft

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "server/engine/torch_engine.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class ModelLoadingTest : public ::testing::Test {
 protected:
  ModelLoadingTest() { WriteTinyModel(folder_.path(), {}); }

  absl::StatusOr<std::unique_ptr<Engine>> Load() const {
    EngineOptions options;
    options.model_dir = folder_.path();
    options.device = "cpu";
    options.threads = 1;
    return CreateTorchEngine(options);
  }

  std::string Read(const std::string& file) const {
    std::ifstream stream(folder_.File(file), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream),
            std::istreambuf_iterator<char>()};
  }

  // Sets one key of a config file.
  void Set(const std::string& file, const std::string& key, const Json& value) {
    Json json = Json::parse(Read(file));
    json[key] = value;
    folder_.Write(file, json.dump());
  }

  const TempDir folder_;
};

TEST_F(ModelLoadingTest, LoadsAndDescribesItself) {
  const auto engine = Load();
  ASSERT_THAT(engine.status(), IsOk());
  const EngineInfo& info = (*engine)->info();
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.dtype, "float32");
  EXPECT_EQ(info.default_width, 16);
  EXPECT_EQ(info.default_sampler, "ddim");
  EXPECT_EQ(info.base_sha256.size(), 64u);
  EXPECT_EQ(info.model_name,
            std::filesystem::path(folder_.path()).filename().string());
}

TEST_F(ModelLoadingTest, DigestIsOfTheWeightsNotOfTheirSharding) {
  const auto whole = Load();
  ASSERT_THAT(whole.status(), IsOk());
  const std::string file = "unet/diffusion_pytorch_model.safetensors";
  const std::string shard =
      "unet/diffusion_pytorch_model-00001-of-00001.safetensors";
  std::filesystem::rename(folder_.File(file), folder_.File(shard));
  // The header begins after eight bytes of length.
  const std::string bytes = Read(shard);
  const Json header = Json::parse(bytes.substr(8, bytes.find("}}") + 2 - 8));
  Json index;
  for (const auto& [name, tensor] : header.items()) {
    if (name != "__metadata__") {
      index["weight_map"][name] =
          "diffusion_pytorch_model-00001-of-00001.safetensors";
    }
  }
  folder_.Write(file + ".index.json", index.dump());
  const auto sharded = Load();
  ASSERT_THAT(sharded.status(), IsOk());
  EXPECT_EQ((*sharded)->info().base_sha256, (*whole)->info().base_sha256);

  index["weight_map"]["no.such.tensor"] =
      "diffusion_pytorch_model-00001-of-00001.safetensors";
  folder_.Write(file + ".index.json", index.dump());
  EXPECT_THAT(Load().status().message(), HasSubstr("no.such.tensor"));
  index["weight_map"]["no.such.tensor"] = "../../elsewhere.safetensors";
  folder_.Write(file + ".index.json", index.dump());
  EXPECT_THAT(Load().status().message(), HasSubstr("leaves the folder"));
}

TEST_F(ModelLoadingTest, TheFolderMayBeAnotherPipelinesOfTheseComponents) {
  const std::string digest = (*Load())->info().base_sha256;
  for (const char* const name :
       {"StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"}) {
    Set("model_index.json", "_class_name", name);
    const auto engine = Load();
    ASSERT_THAT(engine.status(), IsOk()) << name;
    EXPECT_EQ((*engine)->info().base_sha256, digest);
  }
  // One that has been trained to inpaint takes mask and picture, too.
  Set("unet/config.json", "in_channels", 9);
  EXPECT_THAT(Load().status(), HasReason(ErrorReason::kModelUnsupported,
                                         HasSubstr("in_channels")));
}

struct BadKey {
  const char* file;
  const char* key;
  Json value;
};

TEST_F(ModelLoadingTest, NamesFileAndKeyOfWhatIsNotSupported) {
  const BadKey table[] = {
      {"model_index.json", "_class_name", "StableDiffusionXLPipeline"},
      {"unet/config.json", "block_out_channels", "wide"},
      {"unet/config.json",
       "down_block_types",
       {"AttnDownBlock2D", "DownBlock2D"}},
      {"unet/config.json", "act_fn", "gelu"},
      {"unet/config.json", "class_embed_type", "timestep"},
      {"unet/config.json", "only_cross_attention", true},
      {"unet/config.json", "a_key_of_the_future", 3},
      {"unet/config.json", "mid_block_type", nullptr},
      {"unet/config.json", "norm_num_groups", 5},
      {"unet/config.json", "attention_head_dim", {2, 2, 2}},
      {"unet/config.json", "layers_per_block", 1000000000000},
      {"unet/config.json", "transformer_layers_per_block", 0},
      {"unet/config.json", "sample_size", 4611686018427387904},
      {"unet/config.json", "sample_size", -1},
      {"vae/config.json", "latents_mean", {0.1, 0.2}},
      {"vae/config.json", "layers_per_block", 1000000000000},
      {"vae/config.json", "block_out_channels", std::vector<int>(65, 32)},
      {"text_encoder/config.json", "num_hidden_layers", 1000000000000},
      {"vae/config.json", "up_block_types", {"AttnUpDecoderBlock2D"}},
      {"text_encoder/config.json", "hidden_act", "relu"},
      {"scheduler/scheduler_config.json", "prediction_type", "sample"},
      {"scheduler/scheduler_config.json", "thresholding", true},
      {"scheduler/scheduler_config.json", "timestep_spacing", "odd"},
  };
  for (const BadKey& bad : table) {
    SCOPED_TRACE(bad.key);
    const std::string before = Read(bad.file);
    Set(bad.file, bad.key, bad.value);
    const absl::Status status = Load().status();
    EXPECT_THAT(status, HasReason(ErrorReason::kModelUnsupported));
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(bad.file), HasSubstr(bad.key)));
    folder_.Write(bad.file, before);
  }
  EXPECT_THAT(Load().status(), IsOk());
}

// Printing the value, for the message, would overflow the stack.
TEST_F(ModelLoadingTest, DeepNestingIsRefused) {
  folder_.Write("unet/config.json", R"({"x": )" + std::string(1000000, '[') +
                                        std::string(1000000, ']') + "}");
  const absl::Status status = Load().status();
  EXPECT_THAT(status, HasReason(ErrorReason::kModelUnsupported));
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("unet/config.json"), HasSubstr("nested deeper")));
}

// Elsewhere null means the default, but for what diffusers asks "if" of.
TEST_F(ModelLoadingTest, NullIsNoAttentionInTheVaesMiddle) {
  const auto draw = [this](const Json& value) {
    Set("vae/config.json", "mid_block_add_attention", value);
    const auto engine = Load();
    EXPECT_THAT(engine.status(), IsOk());
    GenerationParams params;
    params.width = params.height = 16;
    params.steps = 1;
    const auto generation = (*engine)->Begin(params);
    EXPECT_THAT(generation.status(), IsOk());
    Generation* const raw = generation->get();
    EXPECT_THAT((*engine)->Step({&raw, 1}), IsOk());
    const auto image = (*engine)->Finish(*raw);
    EXPECT_THAT(image.status(), IsOk());
    return image->rgb;
  };
  EXPECT_EQ(draw(nullptr), draw(false));
  EXPECT_NE(draw(nullptr), draw(true));
}

TEST_F(ModelLoadingTest, AUnetWithoutMidBlockIsRefused) {
  Set("unet/config.json", "mid_block_type", nullptr);
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr("\"mid_block_type\" is null (no mid block)"));
  Set("unet/config.json", "mid_block_type", "UNetMidBlock2DCrossAttn");
  EXPECT_THAT(Load().status(), IsOk());
}

TEST_F(ModelLoadingTest, NamesMissingFilesAndTensors) {
  for (const char* file :
       {"model_index.json", "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json",
        "scheduler/scheduler_config.json"}) {
    SCOPED_TRACE(file);
    const std::string before = Read(file);
    std::filesystem::remove(folder_.File(file));
    const std::string message(Load().status().message());
    EXPECT_THAT(message, HasSubstr(file));
    EXPECT_THAT(message,
                AnyOf(HasSubstr("No such file"), HasSubstr("is missing")));
    folder_.Write(file, before);
  }
  Set("unet/config.json", "layers_per_block", 2);
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr("unet.down_blocks.0.resnets.1.norm1.weight"));
  Set("unet/config.json", "layers_per_block", 1);
  Set("unet/config.json", "cross_attention_dim", 32);
  EXPECT_THAT(std::string(Load().status().message()),
              HasSubstr("cross_attention_dim"));
}

TEST_F(ModelLoadingTest, ASamplerThatDoesNotFitTheSchedulerIsRefusedByItself) {
  // Only dpmpp_2m and euler read it.
  Set("scheduler/scheduler_config.json", "use_karras_sigmas", true);
  const auto engine = Load();
  ASSERT_THAT(engine.status(), IsOk());
  GenerationParams params;
  params.width = params.height = 16;
  params.sampler = "ddim";
  EXPECT_THAT((*engine)->Begin(params).status(), IsOk());
  params.sampler = "dpmpp_2m";
  const absl::Status status = (*engine)->Begin(params).status();
  EXPECT_THAT(status, HasReason(ErrorReason::kModelUnsupported));
  EXPECT_THAT(std::string(status.message()), HasSubstr("use_karras_sigmas"));
}

TEST_F(ModelLoadingTest, ReadsPythonsInfinity) {
  const std::string config = Read("scheduler/scheduler_config.json");
  folder_.Write("scheduler/scheduler_config.json",
                config.substr(0, config.rfind('}')) +
                    ", \"lambda_min_clipped\": -Infinity}");
  const auto engine = Load();
  ASSERT_THAT(engine.status(), IsOk());
  GenerationParams params;
  params.width = params.height = 16;
  params.sampler = "dpmpp_2m";
  EXPECT_THAT((*engine)->Begin(params).status(), IsOk());
}

TEST_F(ModelLoadingTest, ANamedDeviceThatIsNotThereIsAnError) {
  EngineOptions options;
  options.model_dir = folder_.path();
  options.device = "cuda:99";
  EXPECT_THAT(CreateTorchEngine(options).status(),
              HasReason(ErrorReason::kModelUnsupported));
  options.device = "tpu";
  EXPECT_THAT(CreateTorchEngine(options).status(),
              HasReason(ErrorReason::kModelUnsupported));
}

}  // namespace
}  // namespace graft

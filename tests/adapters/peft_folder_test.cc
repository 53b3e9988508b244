// PEFT folders, from the two files on the disk to the targets.

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_id.h"
#include "server/adapters/adapter_parser.h"
#include "server/adapters/adapter_source.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kConfig[] = "ink/adapter_config.json";
constexpr char kWeights[] = "ink/adapter_model.safetensors";
constexpr char kPrefix[] = "base_model.model.";
constexpr char kProjIn[] = "down_blocks.0.attentions.0.proj_in";
constexpr char kToQ[] =
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
constexpr char kQProj[] = "text_model.encoder.layers.0.self_attn.q_proj";

std::string HexDigest(const std::string& bytes) {
  return Sha256Hex(bytes.data(), bytes.size());
}

// A pair of rank 4 on a module of 8 inputs and 8 outputs.
void AddPair(const std::string& module, AdapterFileBuilder& file) {
  const std::string key = kPrefix + module;
  file.Add(key + ".lora_A.weight", TensorDtype::kF32, {4, 8})
      .Add(key + ".lora_B.weight", TensorDtype::kF32, {8, 4});
}

AdapterFileBuilder TwoModules() {
  AdapterFileBuilder file;
  AddPair(kProjIn, file);
  AddPair(kToQ, file);
  return file;
}

// A configuration with these members more.
std::string Config(const std::string& more = "") {
  return absl::StrCat(
      R"({"peft_type": "LORA", "r": 4, "lora_alpha": 2, "bias": "none",)",
      R"("fan_in_fan_out": false, "modules_to_save": null)", more, "}");
}

class PeftFolderTest : public testing::Test {
 protected:
  PeftFolderTest() {
    dir_.Write(kConfig, Config());
    dir_.Write(kWeights, TwoModules().Build());
  }

  absl::StatusOr<ParsedAdapter> Load(const std::string& component = "",
                                     bool allow_partial = false) const {
    const AdapterSource source({.directory = dir_.path()});
    GRAFT_ASSIGN_OR_RETURN(const AdapterFile file, source.Read("ink"));
    GRAFT_ASSIGN_OR_RETURN(
        const SafetensorsFile safetensors,
        SafetensorsFile::Parse(file.owner, file.bytes, "ink", {}));
    GRAFT_ASSIGN_OR_RETURN(const auto parser, AdapterParser::Create(&modules_));
    return parser->Parse(safetensors, "ink", file.sha256,
                         {.allow_partial = allow_partial,
                          .component = component,
                          .peft_config = file.peft_config});
  }

  absl::StatusOr<ParsedAdapter> LoadWith(const std::string& config) const {
    dir_.Write(kConfig, config);
    return Load();
  }

  // The scale of proj_in's target.
  double ScaleWith(const std::string& more) const {
    return LoadWith(Config(more)).value().weights.targets.at(0).scale;
  }

  const ModuleTable modules_ = FakeEngine::TinyModules();
  TempDir dir_;
};

TEST_F(PeftFolderTest, IsALoraOfTheUnet) {
  const auto parsed = Load();
  ASSERT_THAT(parsed, IsOk());
  ASSERT_EQ(parsed->weights.targets.size(), 2u);
  EXPECT_EQ(parsed->report.format, "peft");
  const AdapterTarget& target = parsed->weights.targets[0];
  EXPECT_EQ(target.module, absl::StrCat("unet.", kProjIn));
  EXPECT_EQ(target.algorithm, AdapterAlgorithm::kLora);
  EXPECT_EQ(target.rank, 4);
  EXPECT_EQ(target.scale, 0.5);
}

TEST_F(PeftFolderTest, TheDigestIsOfBothFiles) {
  const std::string of_both =
      HexDigest(Config()) + HexDigest(TwoModules().Build());
  EXPECT_EQ(Load()->weights.sha256, HexDigest(of_both));
}

TEST_F(PeftFolderTest, TheSizeIsOfBothFilesAndAskedAboutFirst) {
  const AdapterSource source({.directory = dir_.path()});
  int64_t asked = 0;
  const auto file = source.Read("ink", [&asked](int64_t bytes) {
    asked = bytes;
    return absl::OkStatus();
  });
  ASSERT_THAT(file, IsOk());
  EXPECT_EQ(asked, file->size_bytes());
  EXPECT_EQ(asked, static_cast<int64_t>(Config().size() +
                                        TwoModules().Build().size()));
}

TEST_F(PeftFolderTest, TheDefaultNameIsTheFolders) {
  EXPECT_THAT(ChooseAdapterId("", "styles/ink"), IsOkAndHolds("ink"));
  EXPECT_THAT(ChooseAdapterId("", "styles/ink/"), IsOkAndHolds("ink"));
}

TEST_F(PeftFolderTest, RankStabilisedDividesByTheRoot) {
  EXPECT_EQ(ScaleWith(R"(, "use_rslora": true)"), 1);
  EXPECT_EQ(ScaleWith(R"(, "use_rslora": false)"), 0.5);
  EXPECT_EQ(ScaleWith(R"(, "use_rslora": null)"), 0.5);
}

TEST_F(PeftFolderTest, PatternsChangeAlphaAndTheTensorsTellTheRank) {
  EXPECT_EQ(ScaleWith(R"(, "alpha_pattern": {"proj_in": 8})"), 2);
  EXPECT_EQ(ScaleWith(R"(, "alpha_pattern": {"to_q": 8})"), 0.5);
  EXPECT_EQ(ScaleWith(R"(, "rank_pattern": {"proj_in": 64})"), 0.5);
}

TEST_F(PeftFolderTest, MayBelongToTheTextEncoder) {
  AdapterFileBuilder file;
  AddPair(kQProj, file);
  dir_.Write(kWeights, file.Build());
  const auto parsed = Load("text_encoder");
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->weights.targets[0].module,
            absl::StrCat("text_encoder.", kQProj));
  EXPECT_THAT(Load("unet"), HasReason(ErrorReason::kAdapterKeysUnmatched));
}

// Which one it is no file of the folder says.
TEST_F(PeftFolderTest, TheOtherComponentIsNamedWhereItsKeysFit) {
  EXPECT_THAT(
      Load("text_encoder"),
      HasReason(
          ErrorReason::kAdapterKeysUnmatched,
          AllOf(HasSubstr("4 of 4 keys fit no module of this base's text "
                          "encoder"),
                HasSubstr("4 of them fit its U-Net: load it with component "
                          "\"unet\""),
                Not(HasSubstr("give an adapter for this base")))));
  AdapterFileBuilder file;
  AddPair(kQProj, file);
  // What is not supported is left out there, too.
  file.Add(absl::StrCat(kPrefix,
                        "text_model.embeddings.token_embedding.lora_embedding_"
                        "A"),
           TensorDtype::kF32, {4, 8});
  dir_.Write(kWeights, file.Build());
  for (const char* const component : {"", "unet"}) {
    EXPECT_THAT(Load(component),
                HasReason(ErrorReason::kAdapterKeysUnmatched,
                          HasSubstr("2 of them fit its text encoder: load it "
                                    "with component \"text_encoder\"")));
  }
}

TEST_F(PeftFolderTest, DoraNeedsAMagnitudeInEveryModule) {
  AdapterFileBuilder file = TwoModules();
  const auto magnitude = [](const char* module) {
    return absl::StrCat(kPrefix, module, ".lora_magnitude_vector");
  };
  file.Add(magnitude(kProjIn), TensorDtype::kF32, {8});
  dir_.Write(kWeights, file.Build());
  const std::string config = Config(R"(, "use_dora": true)");
  const auto refused = LoadWith(config);
  EXPECT_THAT(refused, HasReason(ErrorReason::kAdapterCorrupt,
                                 AllOf(HasSubstr("to_q"), HasSubstr("DoRA"))));
  EXPECT_THAT(Load("", /*allow_partial=*/true),
              HasReason(ErrorReason::kAdapterCorrupt));
  file.Add(magnitude(kToQ), TensorDtype::kF32, {8});
  dir_.Write(kWeights, file.Build());
  const auto parsed = Load();
  ASSERT_THAT(parsed, IsOk());
  EXPECT_THAT(parsed->report.algorithms, testing::ElementsAre("dora", "lora"));
}

TEST_F(PeftFolderTest, LoraBiasNeedsABiasInEveryModule) {
  AdapterFileBuilder file;
  AddPair(kProjIn, file);
  dir_.Write(kWeights, file.Build());
  EXPECT_THAT(LoadWith(Config(R"(, "lora_bias": true)")),
              HasReason(ErrorReason::kAdapterCorrupt,
                        AllOf(HasSubstr("proj_in"), HasSubstr("lora_bias"))));
  file.Add(absl::StrCat(kPrefix, kProjIn, ".lora_B.bias"), TensorDtype::kF32,
           {8});
  dir_.Write(kWeights, file.Build());
  const auto parsed = Load();
  ASSERT_THAT(parsed, IsOk());
  EXPECT_EQ(parsed->weights.targets.at(1).parameter, ParameterKind::kBias);
}

TEST_F(PeftFolderTest, WhatItsConfigurationCannotMeanIsRefused) {
  const std::string configs[] = {
      "",
      "junk",
      "[]",
      "null",
      "{}",
      "{\"peft_type\": \"LORA\", \"lora_alpha\": 2, \"x\": \"\xff\"}",
      std::string(100000, '['),
      Config(", \"x\": " + std::string(50, '[') + std::string(50, ']')),
      R"({"lora_alpha": 2})",
      R"({"peft_type": 7, "lora_alpha": 2})",
      R"({"peft_type": "LORA"})",
      R"({"peft_type": "LORA", "lora_alpha": "2"})",
      R"({"peft_type": "LORA", "lora_alpha": 2, "fan_in_fan_out": 1})",
      Config(R"(, "use_dora": "yes")"),
      Config(R"(, "alpha_pattern": {"(": 8})"),
  };
  for (const std::string& config : configs) {
    EXPECT_THAT(LoadWith(config), HasReason(ErrorReason::kAdapterCorrupt))
        << config.substr(0, 80);
  }
}

TEST_F(PeftFolderTest, WhatIsNotImplementedIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"peft_type": "LOHA", "lora_alpha": 2})", "\"LOHA\""},
      {R"({"peft_type": "LORA", "lora_alpha": 2, "fan_in_fan_out": true})",
       "fan_in_fan_out"},
      {R"({"peft_type": "LORA", "lora_alpha": 2, "bias": "all"})", "bias"},
      {R"({"peft_type": "LORA", "lora_alpha": 2,
           "modules_to_save": ["conv_in"]})",
       "modules_to_save"},
      {R"({"peft_type": "LORA", "lora_alpha": 2,
           "init_lora_weights": "pissa_niter_4"})",
       "path_initial_model_for_weight_conversion"},
  };
  for (const auto& [config, name] : cases) {
    EXPECT_THAT(
        LoadWith(config),
        HasReason(ErrorReason::kAdapterKindUnsupported, HasSubstr(name)));
  }
}

TEST_F(PeftFolderTest, AHugeConfigurationIsTooLarge) {
  EXPECT_THAT(LoadWith(Config() + std::string(256 << 10, ' ')),
              HasReason(ErrorReason::kAdapterTooLarge,
                        HasSubstr("adapter_config.json")));
}

TEST_F(PeftFolderTest, BothFilesMustBeThere) {
  for (const char* path : {kConfig, kWeights}) {
    const std::string kept = dir_.File(path) + ".kept";
    std::filesystem::rename(dir_.File(path), kept);
    EXPECT_THAT(Load(), HasReason(ErrorReason::kAdapterCorrupt,
                                  AllOf(HasSubstr("no PEFT folder"),
                                        HasSubstr(std::string(path).substr(4) +
                                                  " is missing"))));
    std::filesystem::rename(kept, dir_.File(path));
  }
}

TEST_F(PeftFolderTest, BothMustBeRegularFiles) {
  for (const char* path : {kConfig, kWeights}) {
    const std::string file = dir_.File(path);
    std::filesystem::rename(file, file + ".kept");
    std::filesystem::create_directory(file);
    EXPECT_THAT(Load(), HasReason(ErrorReason::kAdapterCorrupt,
                                  HasSubstr("not a regular file")));
    std::filesystem::remove(file);
    ASSERT_EQ(mkfifo(file.c_str(), 0600), 0);
    EXPECT_THAT(Load(), HasReason(ErrorReason::kAdapterCorrupt,
                                  HasSubstr("not a regular file")));
    std::filesystem::remove(file);
    std::filesystem::rename(file + ".kept", file);
  }
}

TEST_F(PeftFolderTest, NeitherFileMayBeALinkThatLeadsOutside) {
  const TempDir elsewhere;
  elsewhere.Write("adapter_config.json", Config());
  elsewhere.Write("adapter_model.safetensors", TwoModules().Build());
  for (const char* path : {kConfig, kWeights}) {
    const std::string file = dir_.File(path);
    std::filesystem::rename(file, file + ".kept");
    std::filesystem::create_symlink(elsewhere.File(std::string(path).substr(4)),
                                    file);
    EXPECT_THAT(Load(), HasReason(ErrorReason::kPathNotAllowed));
    std::filesystem::remove(file);
    std::filesystem::rename(file + ".kept", file);
  }
}

// A read(2) that, before the first byte of the weights, lets another version
// of the file at `path` take its place, as trainers do it.
ReadFunction ReplaceMeanwhile(const TempDir& dir, const std::string& path,
                              const std::string& bytes) {
  const auto weights = std::filesystem::file_size(dir.File(kWeights));
  const auto replaced = std::make_shared<bool>(false);
  return [=, &dir](int fd, void* buffer, size_t size) {
    struct stat status = {};
    fstat(fd, &status);
    if (static_cast<uint64_t>(status.st_size) == weights && !*replaced) {
      *replaced = true;
      dir.Write("ink/new", bytes);
      std::filesystem::rename(dir.File("ink/new"), dir.File(path));
    }
    return ::read(fd, buffer, size);
  };
}

TEST_F(PeftFolderTest, AConfigurationReplacedMeanwhileIsNotMixedIn) {
  const AdapterSource source(
      {.directory = dir_.path()},
      ReplaceMeanwhile(dir_, kConfig, Config(R"(, "use_rslora": true)")));
  EXPECT_THAT(source.Read("ink"),
              HasReason(ErrorReason::kAdapterCorrupt,
                        HasSubstr("adapter_config.json changed")));
  EXPECT_THAT(source.Read("ink"), IsOk());
}

TEST_F(PeftFolderTest, WeightsReplacedMeanwhileAreTheVersionThatWasOpened) {
  const auto before = Load();
  const AdapterSource source({.directory = dir_.path()},
                             ReplaceMeanwhile(dir_, kWeights, "new"));
  const auto read = source.Read("ink");
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->sha256, before->weights.sha256);
}

}  // namespace
}  // namespace graft

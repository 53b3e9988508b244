#include "server/weight_export.h"

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

TEST(ExportListTest, NamesAndWeights) {
  EXPECT_THAT(ParseExportList("ink=0.8,night,b.2=-1:0.5"),
              IsOkAndHolds(ElementsAre(ExportedAdapter{"ink", 0.8, 0.8},
                                       ExportedAdapter{"night", 1.0, 1.0},
                                       ExportedAdapter{"b.2", -1.0, 0.5})));
  EXPECT_THAT(ParseExportList(""), IsOkAndHolds(IsEmpty()));
}

TEST(ExportListTest, MistakesSayWhatIsWrong) {
  for (const char* const text :
       {",", "ink,", "ink=", "ink=x", "ink=1:", "ink=1:2:3", "ink=nan", "=1",
        "../ink", "ink.safetensors=0.5=1", "ink,ink"}) {
    EXPECT_THAT(ParseExportList(text),
                HasReason(ErrorReason::kInvalidField, HasSubstr("--export: ")))
        << text;
  }
}

TEST(ExportFileTest, MustBeASafetensorsFileInAFolder) {
  const TempDir dir;
  EXPECT_THAT(CheckExportFile(dir.File("out.safetensors")), IsOk());
  for (const std::string& file :
       {std::string(), dir.File("out.ckpt"), dir.File("no/out.safetensors")}) {
    EXPECT_THAT(CheckExportFile(file), HasReason(ErrorReason::kInvalidField,
                                                 HasSubstr("--export_to: ")))
        << file;
  }
}

// Keeps what it is told to write.
class ExportingEngine : public FakeEngine {
 public:
  absl::Status ExportWeights(
      const std::string& path,
      const std::map<std::string, std::string>& metadata) const override {
    written_path = path;
    written_metadata = metadata;
    written_set = resident();
    return result;
  }

  mutable std::string written_path;
  mutable std::map<std::string, std::string> written_metadata;
  mutable FakeSet written_set;
  absl::Status result;
};

class WeightExportTest : public testing::Test {
 protected:
  WeightExportTest() { options_.adapter_dir = dir_.path(); }

  absl::StatusOr<std::string> Export(const std::string& list) {
    return ExportMergedWeights(*ParseExportList(list), "out.safetensors",
                               options_, engine_);
  }

  TempDir dir_;
  DaemonOptions options_;
  ExportingEngine engine_;
};

TEST_F(WeightExportTest, MergesWhatIsNamedAndTellsItInTheFile) {
  dir_.Write("ink.safetensors", TinyLoraFile(1));
  dir_.Write("night.safetensors", TinyLoraFile(2));
  EXPECT_THAT(Export("night=0.8:0.5,ink"),
              IsOkAndHolds(std::string(
                  "exported night=0.8:0.5, ink=1 to out.safetensors")));
  EXPECT_EQ(engine_.written_path, "out.safetensors");
  ASSERT_THAT(engine_.written_set, SizeIs(2));
  const auto& metadata = engine_.written_metadata;
  EXPECT_EQ(metadata.at("base_sha256"), engine_.info().base_sha256);
  EXPECT_EQ(metadata.at("dtype"), "float32");
  const auto adapters = nlohmann::json::parse(metadata.at("adapters"));
  ASSERT_THAT(adapters, SizeIs(2));
  EXPECT_EQ(adapters[0].at("name"), "night");
  EXPECT_EQ(adapters[0].at("weight"), 0.8);
  EXPECT_EQ(adapters[0].at("text_encoder_weight"), 0.5);
  for (const FakeSetMember& member : engine_.written_set) {
    const bool is_night = member.sha256 == adapters[0].at("sha256");
    EXPECT_EQ(member.unet_weight, is_night ? 0.8 : 1.0);
    EXPECT_EQ(member.text_encoder_weight, is_night ? 0.5 : 1.0);
    EXPECT_TRUE(is_night || member.sha256 == adapters[1].at("sha256"));
  }
}

TEST_F(WeightExportTest, EmptyListExportsTheBase) {
  EXPECT_THAT(
      Export(""),
      IsOkAndHolds(std::string("exported the base alone to out.safetensors")));
  EXPECT_THAT(engine_.written_set, IsEmpty());
  EXPECT_EQ(engine_.written_metadata.at("adapters"), "[]");
}

TEST_F(WeightExportTest, MissingAdapterWritesNothing) {
  EXPECT_THAT(Export("ink"), HasReason(ErrorReason::kAdapterNotFound));
  EXPECT_THAT(engine_.written_path, IsEmpty());
}

TEST_F(WeightExportTest, EnginesErrorIsTheOutcome) {
  engine_.result = Error(ErrorReason::kInternal, "the disk is full");
  EXPECT_THAT(Export(""), HasReason(ErrorReason::kInternal));
}

}  // namespace
}  // namespace graft

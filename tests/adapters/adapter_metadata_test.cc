#include "server/adapters/adapter_metadata.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(AdapterMetadataTest, TheTriggerPhraseComesFirst) {
  EXPECT_THAT(TriggerWords({{"modelspec.trigger_phrase", " in ink wash "},
                            {"ss_tag_frequency", R"({"f": {"dog": 3}})"},
                            {"ss_output_name", "ink"}}),
              ElementsAre("in ink wash"));
}

TEST(AdapterMetadataTest, ThenTheMostFrequentTagsOfAllFolders) {
  EXPECT_THAT(
      TriggerWords(
          {{"ss_tag_frequency",
            R"({"10_a": {"dog": 3, " cat ": 4}, "5_b": {"dog": 2, "b": 1}})"},
           {"ss_output_name", "ink"}}),
      ElementsAre("dog", "cat", "b"));
}

TEST(AdapterMetadataTest, NotMoreThanEightTags) {
  std::string tags;
  for (int i = 0; i < 100; ++i) absl::StrAppend(&tags, ",\"t", i, "\":", i);
  const auto words = TriggerWords(
      {{"ss_tag_frequency", absl::StrCat("{\"f\":{", tags.substr(1), "}}")}});
  EXPECT_THAT(words, ElementsAre("t99", "t98", "t97", "t96", "t95", "t94",
                                 "t93", "t92"));
}

TEST(AdapterMetadataTest, ThenTheOutputName) {
  EXPECT_THAT(TriggerWords({{"ss_output_name", "ink"},
                            {"modelspec.trigger_phrase", "None"}}),
              ElementsAre("ink"));
  EXPECT_THAT(TriggerWords({}), IsEmpty());
}

TEST(AdapterMetadataTest, OddTagListsAreNotUsed) {
  for (const char* json :
       {"", "[]", "{", "7", R"({"f": 3})", R"({"f": {"dog": -1}})",
        R"({"f": {"dog": "many"}})", R"({"f": {"dog": {"deep": 1}}})"}) {
    EXPECT_THAT(TriggerWords({{"ss_tag_frequency", json}}), IsEmpty()) << json;
  }
}

TEST(AdapterMetadataTest, DeepAndLongTagListsAreHarmless) {
  const std::string deep(100000, '[');
  EXPECT_THAT(TriggerWords({{"ss_tag_frequency", deep}}), IsEmpty());
  EXPECT_THAT(TriggerWords({{"ss_tag_frequency", std::string(2 << 20, ' ')}}),
              IsEmpty());
}

// Twenty files with a megabyte of it: work that grows with the square of the
// length ends in the test's timeout.
TEST(AdapterMetadataTest, TagListsOfManyValuesAreHarmless) {
  std::string objects = "{}";
  while (objects.size() < 1'000'000) objects += ",{}";
  const std::string json =
      absl::StrCat("{\"a\":[", objects, "],\"b\":{\"dog\":3}}");
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(TriggerWords({{"ss_tag_frequency", json}}), ElementsAre("dog"));
  }
}

TEST(AdapterMetadataTest, OnlyCountsInFoldersCount) {
  EXPECT_THAT(TriggerWords({{"ss_tag_frequency",
                             R"({"x": 9, "a": {"dog": 3, "deep": {"cat": 8},
                         "list": [7, {"cat": 8}], "none": null, "minus": -1,
                         "half": 0.5, "on": true}, "b": [{"cat": 8}],
                         "c": {"dog": 99999999999999999999}})"}}),
              ElementsAre("dog"));
  EXPECT_THAT(TriggerWords({{"ss_tag_frequency", R"([{"cat": 8}, {"a": 1}])"}}),
              IsEmpty());
}

TEST(AdapterMetadataTest, TheBaseHintJoinsFamilyAndModel) {
  EXPECT_EQ(BaseHint({{"ss_base_model_version", "sd_v1"},
                      {"ss_sd_model_name", "v1-5.ckpt"}}),
            "sd_v1 (v1-5.ckpt)");
  EXPECT_EQ(BaseHint({{"modelspec.architecture", "stable-diffusion-v1/lora"},
                      {"ss_base_model_version", "None"}}),
            "stable-diffusion-v1/lora");
  EXPECT_EQ(BaseHint({{"ss_sd_model_name", "x"}}), "x");
  EXPECT_EQ(BaseHint({}), "");
}

TEST(AdapterMetadataTest, WhatIsShownIsEscapedAndBounded) {
  FileMetadata metadata{{"a\nb", "c\x1b[31m"},
                        {"long", std::string(100000, 'x')}};
  for (int i = 0; i < 1000; ++i) metadata[absl::StrCat("z", i)] = "v";
  const FileMetadata shown = DisplayMetadata(metadata);
  EXPECT_EQ(shown.at("a\\x0ab"), "c\\x1b[31m");
  EXPECT_LT(shown.at("long").size(), 2000u);
  EXPECT_EQ(shown.size(), 128u);
}

}  // namespace
}  // namespace graft

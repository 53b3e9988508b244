#include "server/tokenizer/clip_tokenizer.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::unique_ptr<ClipTokenizer> LoadTestData() {
  auto tokenizer = ClipTokenizer::Load(GRAFT_TESTDATA);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

TEST(ClipTokenizerTest, EqualsTheReferenceTokenForToken) {
  const auto tokenizer = LoadTestData();
  std::ifstream stream(GRAFT_TESTDATA "/golden.json");
  const auto golden = nlohmann::json::parse(stream);
  ASSERT_GT(golden.size(), 200u);
  for (const auto& item : golden) {
    const auto text = item["text"].get<std::string>();
    const auto tokens = item["tokens"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->Tokenize(text), tokens) << text;
    if (!item.contains("padded")) continue;
    EXPECT_EQ(tokenizer->Encode(text).ids,
              item["padded"].get<std::vector<int32_t>>())
        << text;
  }
}

// A folder of files, with a vocabulary of two letters unless one is given.
class TokenizerFolderTest : public testing::Test {
 protected:
  TokenizerFolderTest()
      : folder_(std::filesystem::path(testing::TempDir()) /
                testing::UnitTest::GetInstance()->current_test_info()->name()) {
    std::filesystem::create_directories(folder_);
    Write("vocab.json",
          R"({"!": 0, "a": 1, "a</w>": 2, "b": 3, "b</w>": 4, "ab</w>": 5,
              "<|startoftext|>": 6, "<|endoftext|>": 7})");
    Write("merges.txt", "#version: 0.2\na b</w>\n");
  }
  ~TokenizerFolderTest() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& file, const std::string& text) {
    std::ofstream(folder_ / file) << text;
  }
  void Remove(const std::string& file) {
    std::filesystem::remove(folder_ / file);
  }
  void LinkToItself(const std::string& file) {
    std::filesystem::create_symlink(file, folder_ / file);
  }

  absl::StatusOr<std::unique_ptr<ClipTokenizer>> Load() {
    return ClipTokenizer::Load(folder_.string());
  }
  std::vector<int32_t> Tokenize(absl::string_view text) {
    auto tokenizer = Load();
    EXPECT_THAT(tokenizer, IsOk());
    return tokenizer.ok() ? (*tokenizer)->Tokenize(text)
                          : std::vector<int32_t>();
  }

  // Expects an error that names `file` and says `problem`.
  void ExpectRefused(const std::string& file, const std::string& problem) {
    EXPECT_THAT(Load(),
                HasReason(ErrorReason::kModelUnsupported,
                          AllOf(HasSubstr("/" + file), HasSubstr(problem))));
  }

 private:
  const std::filesystem::path folder_;
};

TEST_F(TokenizerFolderTest, WithoutConfigTheDefaultsOfClipHold) {
  const auto tokenizer = Load();
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ((*tokenizer)->max_length(), 77);
  EXPECT_EQ((*tokenizer)->bos_id(), 6);
  EXPECT_EQ((*tokenizer)->eos_id(), 7);
  EXPECT_EQ((*tokenizer)->pad_id(), 7);
  EXPECT_EQ((*tokenizer)->vocab_size(), 8);
}

TEST_F(TokenizerFolderTest, EncodesStartTextEndPadding) {
  Write("tokenizer_config.json",
        R"({"model_max_length": 6, "pad_token": "!"})");
  const auto tokenizer = Load();
  ASSERT_THAT(tokenizer, IsOk());
  const ClipTokenizer::Encoding encoding = (*tokenizer)->Encode("ab");
  EXPECT_THAT(encoding.ids, ElementsAre(6, 5, 7, 0, 0, 0));
  EXPECT_EQ(encoding.num_tokens, 1);
  EXPECT_EQ(encoding.num_truncated, 0);
}

TEST_F(TokenizerFolderTest, EncodeKeepsTheEndTokenOfALongText) {
  Write("tokenizer_config.json", R"({"model_max_length": 4})");
  const auto tokenizer = Load();
  ASSERT_THAT(tokenizer, IsOk());
  const ClipTokenizer::Encoding exact = (*tokenizer)->Encode("a b");
  EXPECT_THAT(exact.ids, ElementsAre(6, 2, 4, 7));
  EXPECT_EQ(exact.num_truncated, 0);
  const ClipTokenizer::Encoding cut = (*tokenizer)->Encode("a b ab a");
  EXPECT_THAT(cut.ids, ElementsAre(6, 2, 4, 7));
  EXPECT_EQ(cut.num_tokens, 4);
  EXPECT_EQ(cut.num_truncated, 2);
}

TEST_F(TokenizerFolderTest, FindsThePaddingTokenInTheText) {
  Write("tokenizer_config.json",
        R"({"model_max_length": 77, "pad_token": {"content": "!"}})");
  EXPECT_THAT(Tokenize("a!b"), ElementsAre(2, 0, 4));
}

TEST_F(TokenizerFolderTest, SpecialTokensAreFoundInTheRawText) {
  EXPECT_THAT(Tokenize("a<|endoftext|>b"), ElementsAre(2, 7, 4));
  EXPECT_THAT(Tokenize("<|STARTOFTEXT|>").size(), 15u);  // three words
}

TEST_F(TokenizerFolderTest, NormalizedTokensAreFoundInTheNormalizedText) {
  Write("special_tokens_map.json",
        R"({"bos_token": {"content": "<|startoftext|>", "normalized": true}})");
  EXPECT_THAT(Tokenize("a<|STARTOFTEXT|>"), ElementsAre(2, 6));
}

TEST_F(TokenizerFolderTest, OfOneTokenInTwoRolesTheLastRolesFlagsCount) {
  Write("special_tokens_map.json",
        R"({"eos_token": {"content": "<|endoftext|>", "normalized": true},
            "pad_token": "<|endoftext|>"})");
  EXPECT_THAT(Tokenize("<|endoftext|>"), ElementsAre(7));
  EXPECT_THAT(Tokenize("<|ENDOFTEXT|>").size(), 13u);
}

TEST_F(TokenizerFolderTest, SpecialTokensMapGoesBeforeTheConfig) {
  Write("tokenizer_config.json",
        R"({"model_max_length": 77, "pad_token": "<|endoftext|>"})");
  Write("special_tokens_map.json", R"({"pad_token": "!"})");
  auto tokenizer = Load();
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ((*tokenizer)->pad_id(), 0);
}

TEST_F(TokenizerFolderTest, AddedTokensDecoderGoesBeforeSpecialTokensMap) {
  Write("tokenizer_config.json",
        R"({"model_max_length": 77, "pad_token": "<|endoftext|>",
            "added_tokens_decoder":
                {"0": {"content": "!", "normalized": false, "special": true}}})");
  Write("special_tokens_map.json", R"({"pad_token": "a"})");
  auto tokenizer = Load();
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_EQ((*tokenizer)->pad_id(), 7);
  EXPECT_THAT((*tokenizer)->Tokenize("a!"), ElementsAre(2, 0));
}

TEST_F(TokenizerFolderTest, NewTokensGetTheNextIds) {
  Write("added_tokens.json", R"({"<cat-toy>": 8, "<Hat>": 9})");
  auto tokenizer = Load();
  ASSERT_THAT(tokenizer, IsOk());
  EXPECT_THAT((*tokenizer)->Tokenize("a <CAT-toy><hat>"), ElementsAre(2, 8, 9));
  EXPECT_EQ((*tokenizer)->vocab_size(), 10);
}

TEST_F(TokenizerFolderTest, ExtraSpecialTokensAreAdded) {
  Write("tokenizer_config.json",
        R"({"model_max_length": 77, "additional_special_tokens": ["<x>"]})");
  EXPECT_THAT(Tokenize("a<x>"), ElementsAre(2, 8));
}

TEST_F(TokenizerFolderTest, TokenizerJsonGoesBeforeVocabAndMerges) {
  Write("tokenizer.json",
        R"({"model": {"vocab": {"a": 0, "a</w>": 1, "aa</w>": 2,
                                "<|endoftext|>": 3, "<|startoftext|>": 4},
                      "merges": ["a a</w>"]},
            "added_tokens": [{"id": 3, "content": "<|endoftext|>",
                              "normalized": false, "special": true}]})");
  EXPECT_THAT(Tokenize("aa<|endoftext|>"), ElementsAre(2, 3));
  Write("tokenizer.json",
        R"({"model": {"vocab": {"a": 0, "a</w>": 1, "aa</w>": 2,
                                "<|endoftext|>": 3, "<|startoftext|>": 4},
                      "merges": [["a", "a</w>"]]}})");
  EXPECT_THAT(Tokenize("aa"), ElementsAre(2));
}

TEST_F(TokenizerFolderTest, MissingFilesAreNamed) {
  Remove("merges.txt");
  ExpectRefused("merges.txt", "cannot be opened");
  Remove("vocab.json");
  ExpectRefused("vocab.json", "cannot be opened: No such file");
}

// Even where it could be done without: texts would have other tokens.
TEST_F(TokenizerFolderTest, AFileThatIsThereIsRead) {
  for (const char* const file :
       {"tokenizer.json", "added_tokens.json", "special_tokens_map.json"}) {
    Remove(file);
    LinkToItself(file);
    ExpectRefused(file, "cannot be opened: ");
    Remove(file);
  }
}

struct BadFile {
  std::string file;
  std::string text;
  std::string problem;
};

class BadTokenizerFileTest : public TokenizerFolderTest,
                             public testing::WithParamInterface<BadFile> {};

TEST_P(BadTokenizerFileTest, IsRefused) {
  const BadFile& bad = GetParam();
  Write(bad.file, bad.text);
  ExpectRefused(bad.file, bad.problem);
}

constexpr char kConfig[] = "tokenizer_config.json";

std::vector<BadFile> BadFiles() {
  return {
      {"vocab.json", "", "not a JSON object"},
      {"vocab.json", "[]", "not a JSON object"},
      {"vocab.json", R"({"a": 1)", "not a JSON object"},
      {"vocab.json", R"({"a": -1})", "id of \"a\""},
      {"vocab.json", R"({"a": 1.5})", "id of \"a\""},
      {"vocab.json", R"({"a": 2147483647})", "id of \"a\""},
      {"merges.txt", "#version: 0.2\na b c\n", "line 2"},
      {"merges.txt", "a b</w>\n\na b</w>\n", "line 2"},
      {kConfig, "{", "not a JSON object"},
      {kConfig, R"({"pad_token": "!"})", "model_max_length"},
      {kConfig, R"({"model_max_length": 1000000000000000019884624838656})",
       "model_max_length"},
      {kConfig, R"({"model_max_length": 1})", "model_max_length"},
      {kConfig, R"({"model_max_length": 4097})", "model_max_length"},
      {kConfig, R"({"model_max_length": 77.5})", "model_max_length"},
      {kConfig, R"({"model_max_length": "77"})", "model_max_length"},
      {kConfig, R"({"model_max_length": 77, "bos_token": 3})", "bos_token"},
      {kConfig, R"({"model_max_length": 77, "pad_token": {"content": 3}})",
       "pad_token"},
      {kConfig, R"({"model_max_length": 77, "bos_token": ""})",
       "bos_token is empty"},
      {"special_tokens_map.json", R"({"pad_token": {"content": ""}})",
       "pad_token is empty"},
      {kConfig, R"({"model_max_length": 77, "padding_side": "left"})",
       "padding_side"},
      {kConfig, R"({"model_max_length": 77, "truncation_side": "left"})",
       "truncation_side"},
      {kConfig,
       R"({"model_max_length": 77,
                    "added_tokens_decoder": {"x": {"content": "!"}}})",
       "added_tokens_decoder"},
      {kConfig,
       R"({"model_max_length": 77,
                    "added_tokens_decoder": {"0": 5}})",
       "added_tokens_decoder"},
      {"special_tokens_map.json",
       R"({"eos_token": {"content": "x", "single_word": true}})",
       "single_word"},
      {"added_tokens.json", R"({"<x>": "8"})", "id of \"<x>\""},
      // What is deep overflows the stack where it is copied.
      {kConfig, R"({"padding_side": )" + std::string(1000000, '['),
       "nested deeper"},
      {"added_tokens.json",
       R"({"x": )" + std::string(1000000, '[') + std::string(1000000, ']') +
           "}",
       "nested deeper"},
      {"added_tokens.json", R"({")" + std::string(513, 'x') + R"(": 8})",
       "512 bytes"},
      {"special_tokens_map.json",
       R"({"mask_token": ")" + std::string(513, 'x') + R"("})", "512 bytes"},
      {"tokenizer.json", R"({"model": {}})", "vocab"},
      {"tokenizer.json", R"({"model": 3})", "vocab"},
      {"tokenizer.json", R"({"model": {"vocab": [], "merges": []}})",
       "vocabulary"},
      {"tokenizer.json", R"({"model": {"vocab": {}, "merges": [["a"]]}})",
       "merges"},
      {"tokenizer.json",
       R"({"model": {"vocab": {"<|endoftext|>": 0}, "merges": []},
                    "added_tokens": [{"content": "x"}]})",
       "\"id\""}};
}

INSTANTIATE_TEST_SUITE_P(Cases, BadTokenizerFileTest,
                         testing::ValuesIn(BadFiles()));

// In time that grew with the square of their number it would take minutes.
TEST_F(TokenizerFolderTest, ManyAddedTokensCostLittle) {
  nlohmann::json added = nlohmann::json::object();
  nlohmann::json listed = nlohmann::json::array();
  for (int i = 0; i < 300000; ++i) {
    const std::string token = "<" + std::to_string(i) + ">";
    listed.push_back(token);
    added[token] = 8 + i;
  }
  Write("added_tokens.json", added.dump());
  Write("special_tokens_map.json",
        nlohmann::json{{"additional_special_tokens", listed}}.dump());
  EXPECT_THAT(Tokenize(std::string(16384, '<')).size(), 16384u);
  EXPECT_THAT(Tokenize("a<299999>"), ElementsAre(2, 8 + 299999));
}

TEST_F(TokenizerFolderTest, AMergeOutsideTheVocabularyIsRefused) {
  Write("merges.txt", "a x\n");
  EXPECT_THAT(Load(), HasReason(ErrorReason::kModelUnsupported,
                                HasSubstr("lacks \"x\"")));
}

}  // namespace
}  // namespace graft

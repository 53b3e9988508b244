#include "server/tokenizer/tokenizer_files.h"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/common/error.h"
#include "server/common/json_depth.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Json = nlohmann::json;

constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr char kSpecialTokensFile[] = "special_tokens_map.json";
constexpr char kAddedTokensFile[] = "added_tokens.json";
constexpr char kTokenizerFile[] = "tokenizer.json";
constexpr char kVocabularyFile[] = "vocab.json";
constexpr char kMergesFile[] = "merges.txt";

// Text encoders have a fixed number of positions; CLIP's is 77. The file holds
// a huge number where its writer did not know.
constexpr int kMinLength = 2;
constexpr int kMaxLength = 4096;

// A prompt's every place may be compared with as much of an added token.
constexpr size_t kMaxTokenBytes = 512;

// In the order in which the reference adds them. The roles that CLIP does not
// have are found in the text all the same.
constexpr const char* kTokenKeys[] = {"bos_token", "eos_token", "unk_token",
                                      "sep_token", "pad_token", "cls_token",
                                      "mask_token"};

constexpr const char* kTokenListKeys[] = {"extra_special_tokens",
                                          "additional_special_tokens"};

// Reads one folder; keeps the path for messages.
class FolderReader {
 public:
  explicit FolderReader(const std::string& folder) : folder_(folder) {}

  absl::Status Unusable(absl::string_view file,
                        absl::string_view problem) const {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat(folder_, "/", file, ": ", problem));
  }

  absl::StatusOr<std::string> Read(const char* file) const {
    GRAFT_ASSIGN_OR_RETURN(std::optional<std::string> text,
                           ReadIfPresent(file));
    if (!text.has_value()) return CannotBeOpened(file, ENOENT);
    return *std::move(text);
  }

  // An empty object if there is no such file. One that is there and cannot be
  // read is an error: without it texts would have other tokens.
  absl::StatusOr<Json> ReadObjectIfPresent(const char* file) const {
    GRAFT_ASSIGN_OR_RETURN(const std::optional<std::string> text,
                           ReadIfPresent(file));
    if (!text.has_value()) return Json::object();
    return ParseObject(file, *text);
  }

  absl::StatusOr<Json> ParseObject(const char* file,
                                   const std::string& text) const {
    if (JsonDepth(text) > kMaxJsonDepth) {
      return Unusable(file, absl::StrCat("nested deeper than ", kMaxJsonDepth));
    }
    Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) return Unusable(file, "not a JSON object");
    return json;
  }

 private:
  // Nullopt if there is no such file.
  absl::StatusOr<std::optional<std::string>> ReadIfPresent(
      const char* file) const {
    std::ifstream stream(folder_ + "/" + file, std::ios::binary);
    if (!stream && errno == ENOENT) return std::nullopt;
    if (!stream) return CannotBeOpened(file, errno);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  }

  absl::Status CannotBeOpened(const char* file, int error) const {
    return Unusable(file,
                    absl::StrCat("cannot be opened: ", std::strerror(error)));
  }

  const std::string& folder_;
};

// Fills a TokenizerFiles from one folder, step by step.
class FilesLoader {
 public:
  explicit FilesLoader(const std::string& folder) : reader_(folder) {}

  absl::StatusOr<TokenizerFiles> Load() {
    GRAFT_ASSIGN_OR_RETURN(config_, reader_.ReadObjectIfPresent(kConfigFile));
    GRAFT_ASSIGN_OR_RETURN(tokenizer_,
                           reader_.ReadObjectIfPresent(kTokenizerFile));
    GRAFT_RETURN_IF_ERROR(tokenizer_.empty() ? ReadVocabularyAndMerges()
                                             : ReadTokenizerModel());
    GRAFT_RETURN_IF_ERROR(ReadConfig());
    GRAFT_RETURN_IF_ERROR(ReadAddedTokens());
    GRAFT_RETURN_IF_ERROR(ReadSpecialTokens());
    return std::move(files_);
  }

 private:
  absl::Status ReadVocabularyAndMerges() {
    GRAFT_ASSIGN_OR_RETURN(const std::string text,
                           reader_.Read(kVocabularyFile));
    GRAFT_ASSIGN_OR_RETURN(const Json vocabulary,
                           reader_.ParseObject(kVocabularyFile, text));
    GRAFT_RETURN_IF_ERROR(ReadVocabulary(kVocabularyFile, vocabulary));
    GRAFT_ASSIGN_OR_RETURN(const std::string merges, reader_.Read(kMergesFile));
    std::vector<absl::string_view> lines = absl::StrSplit(merges, '\n');
    if (lines.back().empty()) lines.pop_back();  // after the last line feed
    for (size_t i = 0; i < lines.size(); ++i) {
      if (absl::StartsWith(lines[i], "#version")) continue;
      if (!AddMerge(absl::StripSuffix(lines[i], "\r"))) {
        return reader_.Unusable(
            kMergesFile, absl::StrCat("line ", i + 1, " is not two tokens"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadTokenizerModel() {
    const Json model = tokenizer_.value("model", Json::object());
    if (!model.contains("vocab") || !model.contains("merges")) {
      return reader_.Unusable(kTokenizerFile,
                              "model has no \"vocab\" or no \"merges\"");
    }
    GRAFT_RETURN_IF_ERROR(ReadVocabulary(kTokenizerFile, model["vocab"]));
    for (const Json& merge : model["merges"]) {
      const bool is_pair = merge.is_array() && merge.size() == 2 &&
                           merge[0].is_string() && merge[1].is_string();
      if (is_pair) {
        files_.merges.emplace_back(merge[0], merge[1]);
      } else if (!merge.is_string() || !AddMerge(merge.get<std::string>())) {
        return reader_.Unusable(kTokenizerFile,
                                "an entry of \"merges\" is not two tokens");
      }
    }
    return absl::OkStatus();
  }

  bool AddMerge(absl::string_view text) {
    const std::vector<std::string> pair = absl::StrSplit(text, ' ');
    if (pair.size() != 2) return false;
    files_.merges.emplace_back(pair[0], pair[1]);
    return true;
  }

  absl::Status ReadVocabulary(const char* file, const Json& vocabulary) {
    if (!vocabulary.is_object()) {
      return reader_.Unusable(file, "the vocabulary is not a JSON object");
    }
    for (const auto& [token, id] : vocabulary.items()) {
      // One below the limit, so that the number of tokens is an int32_t too.
      if (!id.is_number_unsigned() ||
          id.get<uint64_t>() >= std::numeric_limits<int32_t>::max()) {
        return reader_.Unusable(
            file, absl::StrCat("id of \"", token, "\" is not a 31-bit number"));
      }
      files_.vocabulary.emplace(token, id.get<int32_t>());
    }
    return absl::OkStatus();
  }

  // Everything of the config but its tokens.
  absl::Status ReadConfig() {
    for (const char* const key : {"padding_side", "truncation_side"}) {
      if (config_.value(key, Json("right")) != "right") {
        return reader_.Unusable(
            kConfigFile, absl::StrCat(key, ": only \"right\" is supported"));
      }
    }
    if (config_.empty()) return absl::OkStatus();
    const Json length = config_.value("model_max_length", Json());
    if (!length.is_number_integer() || length < kMinLength ||
        length > kMaxLength) {
      return reader_.Unusable(
          kConfigFile,
          absl::StrCat("model_max_length must be a whole number from ",
                       kMinLength, " to ", kMaxLength,
                       "; write the text encoder's max_position_embeddings "
                       "there (77 for CLIP)"));
    }
    files_.max_length = length.get<int>();
    return absl::OkStatus();
  }

  // Tokens listed with their ids: by the config, or else, as older writers did,
  // by files of their own.
  absl::Status ReadAddedTokens() {
    if (config_.contains("added_tokens_decoder")) {
      for (const auto& [id, token] : config_["added_tokens_decoder"].items()) {
        int64_t number = 0;
        if (!absl::SimpleAtoi(id, &number)) {
          return reader_.Unusable(
              kConfigFile, absl::StrCat("added_tokens_decoder: key \"", id,
                                        "\" is not a number"));
        }
        GRAFT_ASSIGN_OR_RETURN(
            listed_[number],
            ReadToken(kConfigFile, "added_tokens_decoder", token, {}));
      }
    } else {
      GRAFT_RETURN_IF_ERROR(ReadLegacyAddedTokens());
    }
    for (const auto& [id, token] : listed_) {
      files_.added_tokens.push_back(token);
      has_id_.insert(token.content);
    }
    return absl::OkStatus();
  }

  absl::Status ReadLegacyAddedTokens() {
    GRAFT_ASSIGN_OR_RETURN(special_tokens_,
                           reader_.ReadObjectIfPresent(kSpecialTokensFile));
    config_.update(special_tokens_);
    GRAFT_ASSIGN_OR_RETURN(const Json added,
                           reader_.ReadObjectIfPresent(kAddedTokensFile));
    const absl::flat_hash_set<std::string> special = SpecialContents();
    for (const auto& [content, id] : added.items()) {
      if (!id.is_number_integer()) {
        return reader_.Unusable(
            kAddedTokensFile,
            absl::StrCat("id of \"", content, "\" is not a number"));
      }
      GRAFT_RETURN_IF_ERROR(CheckLength(kAddedTokensFile, content));
      listed_[id.get<int64_t>()] = {content, !special.contains(content)};
    }
    for (const Json& token : tokenizer_.value("added_tokens", Json::array())) {
      const Json id = token.is_object() ? token.value("id", Json()) : Json();
      if (!id.is_number_integer()) {
        return reader_.Unusable(kTokenizerFile, "an added token has no \"id\"");
      }
      GRAFT_ASSIGN_OR_RETURN(
          listed_[id.get<int64_t>()],
          ReadToken(kTokenizerFile, "added_tokens", token, {}));
    }
    return absl::OkStatus();
  }

  // Which file a key of `config_` comes from, for messages.
  const char* FileOf(const char* key) const {
    return special_tokens_.contains(key) ? kSpecialTokensFile : kConfigFile;
  }

  // What has a role, or is listed as an extra token.
  absl::flat_hash_set<std::string> SpecialContents() const {
    absl::flat_hash_set<std::string> contents;
    const auto add = [&](const Json& token) {
      const Json content =
          token.is_object() ? token.value("content", Json()) : token;
      if (content.is_string()) contents.insert(content.get<std::string>());
    };
    for (const char* const key : kTokenKeys) add(config_.value(key, Json()));
    for (const char* const key : kTokenListKeys) {
      for (const Json& token : config_.value(key, Json())) add(token);
    }
    return contents;
  }

  absl::Status ReadSpecialTokens() {
    const std::map<absl::string_view, std::string*> roles = {
        {"bos_token", &files_.bos},
        {"eos_token", &files_.eos},
        {"unk_token", &files_.unknown},
        {"pad_token", &files_.pad}};
    for (const char* const key : kTokenKeys) {
      const auto role = roles.find(key);
      AddedToken token;
      if (role != roles.end()) token.content = *role->second;  // the default
      if (const Json json = config_.value(key, Json()); !json.is_null()) {
        GRAFT_ASSIGN_OR_RETURN(token, ReadToken(FileOf(key), key, json, true));
      }
      // The others are needed for every text.
      if (role != roles.end() && token.content.empty() &&
          role->second != &files_.unknown) {
        return reader_.Unusable(
            FileOf(key), absl::StrCat(key,
                                      " is empty; leave it out for CLIP's "
                                      "own, \"",
                                      *role->second, "\""));
      }
      if (role != roles.end()) *role->second = token.content;
      AddSpecialToken(token);
    }
    for (const char* const key : kTokenListKeys) {
      for (const Json& json : config_.value(key, Json())) {
        GRAFT_ASSIGN_OR_RETURN(const AddedToken token,
                               ReadToken(FileOf(key), key, json, true));
        AddSpecialToken(token);
      }
    }
    return absl::OkStatus();
  }

  // A token with an id of its own keeps the flags that stand there; of one that
  // has several roles, the last role's flags count.
  void AddSpecialToken(const AddedToken& token) {
    if (token.content.empty()) return;  // a role that nothing fills
    if (has_id_.contains(token.content)) return;
    const auto [place, is_new] =
        places_.try_emplace(token.content, files_.added_tokens.size());
    if (is_new) {
      files_.added_tokens.push_back(token);
    } else {
      files_.added_tokens[place->second] = token;
    }
  }

  // A token as a string or as an object. A special token is found in the raw
  // text unless the object says otherwise; `special` empty: it says that too.
  absl::StatusOr<AddedToken> ReadToken(const char* file, const char* key,
                                       const Json& json,
                                       std::optional<bool> special) const {
    if (json.is_string()) {
      const auto content = json.get<std::string>();
      GRAFT_RETURN_IF_ERROR(CheckLength(file, content));
      return AddedToken{content, false};
    }
    if (!json.is_object() || !json.contains("content") ||
        !json["content"].is_string()) {
      return reader_.Unusable(
          file, absl::StrCat(key,
                             ": a token must be a string or an object "
                             "with a string \"content\""));
    }
    if (json.value("single_word", Json(false)) != false) {
      return reader_.Unusable(
          file, absl::StrCat(key,
                             ": \"single_word\" tokens are not supported; "
                             "set it to false"));
    }
    const bool is_special =
        special.value_or(json.value("special", Json(false)) == true);
    const auto content = json["content"].get<std::string>();
    GRAFT_RETURN_IF_ERROR(CheckLength(file, content));
    return AddedToken{content,
                      json.value("normalized", Json(!is_special)) == true};
  }

  absl::Status CheckLength(const char* file, const std::string& token) const {
    if (token.size() <= kMaxTokenBytes) return absl::OkStatus();
    return reader_.Unusable(
        file, absl::StrCat("the token \"", EscapeUntrusted(token, 64),
                           "\" has more than ", kMaxTokenBytes, " bytes"));
  }

  const FolderReader reader_;
  TokenizerFiles files_;
  Json config_;     // with special_tokens_map.json's keys laid over it
  Json tokenizer_;  // empty where the folder has none
  Json special_tokens_ = Json::object();
  std::map<int64_t, AddedToken> listed_;     // by the id that the files give it
  absl::flat_hash_set<std::string> has_id_;  // the contents of `listed_`
  // Where in `added_tokens` the others are.
  absl::flat_hash_map<std::string, size_t> places_;
};

}  // namespace

absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& folder) {
  return FilesLoader(folder).Load();
}

}  // namespace graft

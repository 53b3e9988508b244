#include "server/tokenizer/clip_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/tokenizer/added_tokens.h"
#include "server/tokenizer/byte_pair_encoder.h"
#include "server/tokenizer/clip_text.h"
#include "server/tokenizer/tokenizer_files.h"

namespace graft {
namespace {

// Gives every added token an id, its own or the next free one, and sorts them
// by where they are looked for. Adds the new ones to `vocabulary`.
void AddTokens(const std::vector<AddedToken>& tokens, Vocabulary& vocabulary,
               AddedTokenFinder& in_raw_text,
               AddedTokenFinder& in_normalized_text) {
  // The reference counts entries, not ids: the same where ids have no holes.
  auto next_id = static_cast<int32_t>(vocabulary.size());
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    const auto [entry, is_new] = vocabulary.emplace(token.content, next_id);
    if (is_new) ++next_id;
    AddedTokenFinder& finder =
        token.normalized ? in_normalized_text : in_raw_text;
    finder.Add(
        token.normalized ? NormalizeClipText(token.content) : token.content,
        entry->second);
  }
}

int32_t LargestId(const Vocabulary& vocabulary) {
  int32_t largest = -1;
  for (const auto& [token, id] : vocabulary) largest = std::max(largest, id);
  return largest;
}

}  // namespace

struct ClipTokenizer::Tables {
  explicit Tables(BytePairEncoder word_encoder)
      : encoder(std::move(word_encoder)) {}

  BytePairEncoder encoder;
  AddedTokenFinder in_raw_text;
  AddedTokenFinder in_normalized_text;
  int max_length = 0;
  int32_t bos_id = 0;
  int32_t eos_id = 0;
  int32_t pad_id = 0;
  int vocab_size = 0;
};

absl::StatusOr<std::unique_ptr<ClipTokenizer>> ClipTokenizer::Load(
    const std::string& folder) {
  GRAFT_ASSIGN_OR_RETURN(TokenizerFiles files, ReadTokenizerFiles(folder));
  absl::StatusOr<BytePairEncoder> encoder =
      BytePairEncoder::Create(files.vocabulary, files.merges, files.unknown);
  if (!encoder.ok()) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat(folder, ": ", encoder.status().message()));
  }
  auto tables = std::make_unique<Tables>(*std::move(encoder));
  AddTokens(files.added_tokens, files.vocabulary, tables->in_raw_text,
            tables->in_normalized_text);
  tables->max_length = files.max_length;
  tables->bos_id = files.vocabulary.at(files.bos);
  tables->eos_id = files.vocabulary.at(files.eos);
  tables->pad_id = files.vocabulary.at(files.pad);
  tables->vocab_size = LargestId(files.vocabulary) + 1;
  return std::unique_ptr<ClipTokenizer>(new ClipTokenizer(std::move(tables)));
}

ClipTokenizer::ClipTokenizer(std::unique_ptr<const Tables> tables)
    : tables_(std::move(tables)) {}

ClipTokenizer::~ClipTokenizer() = default;

std::vector<int32_t> ClipTokenizer::Tokenize(absl::string_view text) const {
  std::vector<int32_t> ids;
  for (const auto& raw : tables_->in_raw_text.Split(text)) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    const std::string normalized = NormalizeClipText(raw.text);
    for (const auto& piece : tables_->in_normalized_text.Split(normalized)) {
      if (piece.id >= 0) {
        ids.push_back(piece.id);
        continue;
      }
      for (const absl::string_view word : SplitClipWords(piece.text)) {
        tables_->encoder.Encode(word, ids);
      }
    }
  }
  return ids;
}

ClipTokenizer::Encoding ClipTokenizer::Encode(absl::string_view text) const {
  const std::vector<int32_t> tokens = Tokenize(text);
  const auto num_tokens = static_cast<int>(tokens.size());
  const int num_kept = std::min(num_tokens, tables_->max_length - 2);
  Encoding encoding;
  encoding.num_tokens = num_tokens;
  encoding.num_truncated = num_tokens - num_kept;
  encoding.ids.reserve(tables_->max_length);
  encoding.ids.push_back(tables_->bos_id);
  encoding.ids.insert(encoding.ids.end(), tokens.begin(),
                      tokens.begin() + num_kept);
  encoding.ids.push_back(tables_->eos_id);
  encoding.ids.resize(tables_->max_length, tables_->pad_id);
  return encoding;
}

int ClipTokenizer::max_length() const { return tables_->max_length; }
int32_t ClipTokenizer::bos_id() const { return tables_->bos_id; }
int32_t ClipTokenizer::eos_id() const { return tables_->eos_id; }
int32_t ClipTokenizer::pad_id() const { return tables_->pad_id; }
int ClipTokenizer::vocab_size() const { return tables_->vocab_size; }

}  // namespace graft

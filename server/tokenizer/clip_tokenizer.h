#ifndef GRAFT_SERVER_TOKENIZER_CLIP_TOKENIZER_H_
#define GRAFT_SERVER_TOKENIZER_CLIP_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

// CLIP's byte-pair-encoding tokenizer, equal token for token to
// transformers.CLIPTokenizer (5.x) on any Unicode string: normalisation, lower
// case, word pattern, byte-level alphabet, merges by rank, special tokens in
// the text. Immutable and thread-safe.
class ClipTokenizer {
 public:
  struct Encoding {
    std::vector<int32_t> ids;  // exactly max_length() of them
    int num_tokens = 0;        // of the text, special tokens not counted
    int num_truncated = 0;     // tokens of the text that did not fit
  };

  // Reads a tokenizer folder as the reference does: vocabulary and merges from
  // tokenizer.json where present, else from vocab.json and merges.txt; tokens
  // and length from tokenizer_config.json and, where present,
  // special_tokens_map.json and added_tokens.json. Without a config: CLIP's
  // defaults. Errors (MODEL_UNSUPPORTED) name the file and key.
  static absl::StatusOr<std::unique_ptr<ClipTokenizer>> Load(
      const std::string& folder);

  ~ClipTokenizer();

  // The tokens of `text` (valid UTF-8) without start and end token,
  // untruncated.
  std::vector<int32_t> Tokenize(absl::string_view text) const;

  // Start token, text (truncated to fit), end token, padding to max_length():
  // what the pipeline feeds the text encoder (padding="max_length",
  // truncation=True).
  Encoding Encode(absl::string_view text) const;

  // model_max_length of the tokenizer's config: 77 for CLIP.
  int max_length() const;
  int32_t bos_id() const;
  int32_t eos_id() const;
  int32_t pad_id() const;
  int vocab_size() const;  // largest id + 1

 private:
  struct Tables;
  explicit ClipTokenizer(std::unique_ptr<const Tables> tables);

  std::unique_ptr<const Tables> tables_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_CLIP_TOKENIZER_H_

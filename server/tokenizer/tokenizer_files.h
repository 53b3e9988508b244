#ifndef GRAFT_SERVER_TOKENIZER_TOKENIZER_FILES_H_
#define GRAFT_SERVER_TOKENIZER_TOKENIZER_FILES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tokenizer/added_tokens.h"
#include "server/tokenizer/byte_pair_encoder.h"

namespace graft {

// What a tokenizer folder says, in the reference's order of precedence.
struct TokenizerFiles {
  Vocabulary vocabulary;
  Merges merges;
  std::string bos = "<|startoftext|>";
  std::string eos = "<|endoftext|>";
  std::string unknown = "<|endoftext|>";
  std::string pad = "<|endoftext|>";
  std::vector<AddedToken> added_tokens;
  int max_length = 77;
};

// Reads the files in `folder`. Errors (MODEL_UNSUPPORTED) name file and key.
absl::StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& folder);

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_TOKENIZER_FILES_H_

#ifndef GRAFT_SERVER_TOKENIZER_CLIP_TEXT_H_
#define GRAFT_SERVER_TOKENIZER_CLIP_TEXT_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft {

// CLIP's text rules, pinned to the Unicode versions of the reference
// (tokenizers 0.23: composition by Unicode 9, letters and numbers by Unicode
// 16, lower case by Unicode 17), whatever version the machine's ICU has.
// Thread-safe.

// Canonical composition (NFC), each run of white space as one space, lower case
// character by character. REQUIRES: `text` is valid UTF-8.
std::string NormalizeClipText(absl::string_view text);

// The words of a normalised text, which the result points into: runs of
// letters, single numbers, runs of other characters but spaces, and the English
// endings
// ('s, 't, 're, 've, 'm, 'll, 'd).
std::vector<absl::string_view> SplitClipWords(absl::string_view normalized);

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_CLIP_TEXT_H_

#ifndef GRAFT_SERVER_TOKENIZER_ADDED_TOKENS_H_
#define GRAFT_SERVER_TOKENIZER_ADDED_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft {

// A token that is found in the text itself, before words are made: the start
// and end tokens, "!" where it is the padding, those of textual inversion.
struct AddedToken {
  std::string content;
  bool normalized = false;  // found in the normalised text, else in the raw one
};

// Finds the added tokens in a text: the leftmost first, and of those at one
// place the longest. Immutable and thread-safe.
class AddedTokenFinder {
 public:
  // A stretch of text, or a token: then `id` is not -1.
  struct Piece {
    absl::string_view text;
    int32_t id = -1;
  };

  // Adds a token to look for. An empty `content`, or one added before, changes
  // nothing.
  void Add(absl::string_view content, int32_t id);

  // Cuts `text` into pieces, which point into it.
  std::vector<Piece> Split(absl::string_view text) const;

 private:
  struct Entry {
    std::string content;
    int32_t id;
  };

  const Entry* LongestAt(absl::string_view text) const;

  std::array<std::vector<Entry>, 256> by_first_byte_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_ADDED_TOKENS_H_

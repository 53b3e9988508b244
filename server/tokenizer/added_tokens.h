#ifndef GRAFT_SERVER_TOKENIZER_ADDED_TOKENS_H_
#define GRAFT_SERVER_TOKENIZER_ADDED_TOKENS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace graft {

// A token that is found in the text itself, before words are made: the start
// and end tokens, "!" where it is the padding, those of textual inversion.
struct AddedToken {
  std::string content;
  bool normalized = false;  // found in the normalised text, else in the raw one
};

// Finds the added tokens in a text: the leftmost first, and of those at one
// place the longest. What that takes depends on how long tokens are, not on how
// many there are. Immutable and thread-safe.
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
  // The longest token that `text` begins with; without an id if none.
  Piece LongestAt(absl::string_view text) const;

  // The tokens as a tree, in which each edge is a byte and 0 is the root: the
  // node behind an edge, and the id of the token that ends in a node or -1.
  absl::flat_hash_map<std::pair<int32_t, uint8_t>, int32_t> children_;
  std::vector<int32_t> ids_ = {-1};
};

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_ADDED_TOKENS_H_

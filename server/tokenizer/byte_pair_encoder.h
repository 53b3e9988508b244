#ifndef GRAFT_SERVER_TOKENIZER_BYTE_PAIR_ENCODER_H_
#define GRAFT_SERVER_TOKENIZER_BYTE_PAIR_ENCODER_H_

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

using Vocabulary = absl::flat_hash_map<std::string, int32_t>;

// Pairs of vocabulary entries, most preferred first.
using Merges = std::vector<std::pair<std::string, std::string>>;

// Byte-pair encoding of one word at a time: each byte becomes a symbol (spelt
// in GPT-2's printable alphabet, the last one with "</w>"), then the
// neighbouring pair of lowest rank is merged, the leftmost first, until no pair
// is left. Time is n log n in the word's length. Immutable and thread-safe.
class BytePairEncoder {
 public:
  // `unknown` stands for bytes that `vocabulary` does not have. Errors name the
  // entry at fault.
  static absl::StatusOr<BytePairEncoder> Create(const Vocabulary& vocabulary,
                                                const Merges& merges,
                                                const std::string& unknown);

  // Appends the tokens of `word`.
  void Encode(absl::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t id;  // of the merged symbol
  };

  BytePairEncoder() = default;

  const Merge* FindMerge(int32_t left, int32_t right) const;

  std::array<int32_t, 256> inner_;  // symbol of a byte inside a word
  std::array<int32_t, 256> final_;  // symbol of a byte at the end of a word
  absl::flat_hash_map<std::pair<int32_t, int32_t>, Merge> merges_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_BYTE_PAIR_ENCODER_H_

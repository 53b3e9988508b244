#include "server/tokenizer/byte_pair_encoder.h"

#include <cstddef>
#include <optional>
#include <queue>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

constexpr absl::string_view kEndOfWord = "</w>";

// One symbol of a word, in a doubly linked list over a vector.
struct Symbol {
  int32_t id;
  int32_t previous;  // -1: none
  int32_t next;      // -1: none
  bool removed = false;
};

// A pair that could be merged: the symbol at `position` and its next one.
struct Candidate {
  int32_t rank;
  int32_t position;
  int32_t id;

  // For a queue that gives the lowest rank first, then the leftmost.
  bool operator<(const Candidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

// GPT-2's printable stand-in for each byte, in UTF-8: the byte's own Latin-1
// character where that is printable, else the next unused one from U+0100 on.
std::array<std::string, 256> ByteAlphabet() {
  std::array<std::string, 256> alphabet;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) ||
                           (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code_point = printable ? byte : next++;
    if (code_point < 0x80) {
      alphabet[byte] = std::string(1, static_cast<char>(code_point));
    } else {
      alphabet[byte] = {static_cast<char>(0xC0 | code_point >> 6),
                        static_cast<char>(0x80 | (code_point & 0x3F))};
    }
  }
  return alphabet;
}

std::optional<int32_t> Find(const Vocabulary& vocabulary,
                            absl::string_view token) {
  const auto found = vocabulary.find(token);
  if (found == vocabulary.end()) return std::nullopt;
  return found->second;
}

absl::StatusOr<int32_t> Require(const Vocabulary& vocabulary,
                                absl::string_view token) {
  const std::optional<int32_t> id = Find(vocabulary, token);
  if (!id.has_value()) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat("the vocabulary lacks \"", token, "\""));
  }
  return *id;
}

}  // namespace

absl::StatusOr<BytePairEncoder> BytePairEncoder::Create(
    const Vocabulary& vocabulary, const Merges& merges,
    const std::string& unknown) {
  BytePairEncoder encoder;
  const std::array<std::string, 256> alphabet = ByteAlphabet();
  const std::optional<int32_t> unknown_id = Find(vocabulary, unknown);
  for (int byte = 0; byte < 256; ++byte) {
    std::optional<int32_t> inner = Find(vocabulary, alphabet[byte]);
    std::optional<int32_t> final =
        Find(vocabulary, absl::StrCat(alphabet[byte], kEndOfWord));
    if (!inner.has_value()) inner = unknown_id;
    if (!final.has_value()) final = unknown_id;
    if (!inner.has_value() || !final.has_value()) {
      return Require(vocabulary, unknown).status();
    }
    encoder.inner_[byte] = *inner;
    encoder.final_[byte] = *final;
  }
  int32_t rank = 0;
  for (const auto& [left, right] : merges) {
    GRAFT_ASSIGN_OR_RETURN(const int32_t left_id, Require(vocabulary, left));
    GRAFT_ASSIGN_OR_RETURN(const int32_t right_id, Require(vocabulary, right));
    GRAFT_ASSIGN_OR_RETURN(const int32_t merged_id,
                           Require(vocabulary, absl::StrCat(left, right)));
    // A pair listed again counts by its last place, as in the reference.
    encoder.merges_[{left_id, right_id}] = {rank++, merged_id};
  }
  return encoder;
}

const BytePairEncoder::Merge* BytePairEncoder::FindMerge(int32_t left,
                                                         int32_t right) const {
  const auto found = merges_.find({left, right});
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairEncoder::Encode(absl::string_view word,
                             std::vector<int32_t>& ids) const {
  const auto size = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  for (int32_t i = 0; i < size; ++i) {
    const bool last = i + 1 == size;
    const auto& table = last ? final_ : inner_;
    symbols.push_back(
        {table[static_cast<uint8_t>(word[i])], i - 1, last ? -1 : i + 1});
  }

  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t position) {
    if (position < 0 || symbols[position].next < 0) return;
    const Symbol& next = symbols[symbols[position].next];
    const Merge* const merge = FindMerge(symbols[position].id, next.id);
    if (merge != nullptr) queue.push({merge->rank, position, merge->id});
  };
  for (int32_t i = 0; i < size; ++i) consider(i);

  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = symbols[candidate.position];
    if (left.removed || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // The pair may have changed since it was queued.
    const Merge* const merge = FindMerge(left.id, right.id);
    if (merge == nullptr || merge->id != candidate.id) continue;
    left.id = candidate.id;
    left.next = right.next;
    right.removed = true;
    if (left.next >= 0) symbols[left.next].previous = candidate.position;
    consider(left.previous);
    consider(candidate.position);
  }

  for (const Symbol& symbol : symbols) {
    if (!symbol.removed) ids.push_back(symbol.id);
  }
}

}  // namespace graft

#include "server/tokenizer/added_tokens.h"

#include "absl/strings/match.h"

namespace graft {

void AddedTokenFinder::Add(absl::string_view content, int32_t id) {
  if (content.empty()) return;
  auto& entries = by_first_byte_[static_cast<uint8_t>(content[0])];
  for (const Entry& entry : entries) {
    if (entry.content == content) return;
  }
  entries.push_back({std::string(content), id});
}

const AddedTokenFinder::Entry* AddedTokenFinder::LongestAt(
    absl::string_view text) const {
  const Entry* longest = nullptr;
  for (const Entry& entry : by_first_byte_[static_cast<uint8_t>(text[0])]) {
    if (absl::StartsWith(text, entry.content) &&
        (longest == nullptr ||
         entry.content.size() > longest->content.size())) {
      longest = &entry;
    }
  }
  return longest;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::Split(
    absl::string_view text) const {
  std::vector<Piece> pieces;
  size_t begin = 0;  // of the stretch before the next token
  for (size_t position = 0; position < text.size();) {
    const Entry* const found = LongestAt(text.substr(position));
    if (found == nullptr) {
      ++position;
      continue;
    }
    if (begin < position) {
      pieces.push_back({text.substr(begin, position - begin)});
    }
    pieces.push_back({text.substr(position, found->content.size()), found->id});
    position += found->content.size();
    begin = position;
  }
  if (begin < text.size()) pieces.push_back({text.substr(begin)});
  return pieces;
}

}  // namespace graft

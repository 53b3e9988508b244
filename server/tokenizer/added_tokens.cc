#include "server/tokenizer/added_tokens.h"

namespace graft {

void AddedTokenFinder::Add(absl::string_view content, int32_t id) {
  if (content.empty()) return;
  int32_t node = 0;
  for (const char c : content) {
    const auto next = static_cast<int32_t>(ids_.size());
    const auto [child, is_new] =
        children_.try_emplace({node, static_cast<uint8_t>(c)}, next);
    if (is_new) ids_.push_back(-1);
    node = child->second;
  }
  if (ids_[node] < 0) ids_[node] = id;
}

AddedTokenFinder::Piece AddedTokenFinder::LongestAt(
    absl::string_view text) const {
  Piece longest;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = children_.find({node, static_cast<uint8_t>(text[i])});
    if (child == children_.end()) break;
    node = child->second;
    if (ids_[node] >= 0) longest = {text.substr(0, i + 1), ids_[node]};
  }
  return longest;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::Split(
    absl::string_view text) const {
  std::vector<Piece> pieces;
  size_t begin = 0;  // of the stretch before the next token
  for (size_t position = 0; position < text.size();) {
    const Piece found = LongestAt(text.substr(position));
    if (found.id < 0) {
      ++position;
      continue;
    }
    if (begin < position) {
      pieces.push_back({text.substr(begin, position - begin)});
    }
    pieces.push_back(found);
    position += found.text.size();
    begin = position;
  }
  if (begin < text.size()) pieces.push_back({text.substr(begin)});
  return pieces;
}

}  // namespace graft

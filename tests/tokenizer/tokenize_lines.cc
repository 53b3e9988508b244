// Tokenizes standard input for compare_with_reference.py:
//   tokenize_lines FOLDER < TEXTS > IDS
// TEXTS: per text its size in bytes, a line feed, its bytes. IDS: per text one
// line, the ids of Tokenize() separated by spaces.
#include <cstddef>
#include <iostream>
#include <string>

#include "absl/strings/str_join.h"
#include "server/tokenizer/clip_tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines FOLDER < TEXTS > IDS\n";
    return 2;
  }
  const auto tokenizer = graft::ClipTokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  std::ios::sync_with_stdio(false);
  for (size_t size = 0; std::cin >> size;) {
    std::string text(size, '\0');
    std::cin.get();  // the line feed
    std::cin.read(text.data(), static_cast<std::streamsize>(size));
    std::cout << absl::StrJoin((*tokenizer)->Tokenize(text), " ") << "\n";
  }
  return 0;
}

#ifndef GRAFT_TESTS_ENGINE_PTX_TOKENS_H_
#define GRAFT_TESTS_ENGINE_PTX_TOKENS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::ptx {

// A word (a name, an opcode with its modifiers, a directive, a number without
// its sign), a string with its quotes, or one other character.
struct Token {
  absl::string_view text;  // empty: the end
  int line = 0;            // from 1
};

// The tokens of a PTX file, without comments, and one for the end.
std::vector<Token> Tokenize(absl::string_view text);

// Reads them one after the other. After an error there are none left.
class TokenReader {
 public:
  explicit TokenReader(absl::string_view text) : tokens_(Tokenize(text)) {}

  bool ok() const { return error_.empty(); }
  const std::string& error() const { return error_; }
  // Of the token that comes.
  int line() const { return tokens_[at_].line; }

  // Empty: the end.
  absl::string_view Peek() const { return tokens_[at_].text; }
  absl::string_view Next();
  // Whether it is this one that comes; if so, goes past it.
  bool Accept(absl::string_view text);
  void Expect(absl::string_view text);
  uint32_t Number();
  // An integer with its sign, or 0f and the bits of a float, if one comes.
  std::optional<uint64_t> AcceptConstant();
  // To the next line.
  void SkipLine();

  // The first error stays, with its line: the one that is read, or `line`.
  void Fail(absl::string_view what) { Fail(what, line()); }
  void Fail(absl::string_view what, int line);

 private:
  const std::vector<Token> tokens_;
  size_t at_ = 0;
  std::string error_;
};

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_TOKENS_H_

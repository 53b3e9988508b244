#include "tests/engine/ptx/tokens.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace graft::ptx {
namespace {

bool IsOfWord(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
         c == '$' || c == '.' || c == '%';
}

// The length of what `text` begins with. Comments and strings that do not end
// go on to the end of the file.
size_t LengthOf(absl::string_view text) {
  const auto until = [&](absl::string_view end, size_t from) {
    const size_t at = text.find(end, from);
    return at == absl::string_view::npos ? text.size() : at + end.size();
  };
  if (absl::StartsWith(text, "//")) return until("\n", 2);
  if (absl::StartsWith(text, "/*")) return until("*/", 2);
  if (text[0] == '"') return until("\"", 1);
  if (!IsOfWord(text[0])) return 1;
  const auto end = std::find_if_not(text.begin(), text.end(), IsOfWord);
  return static_cast<size_t>(end - text.begin());
}

bool IsSpace(absl::string_view text) {
  return absl::ascii_isspace(static_cast<unsigned char>(text[0])) ||
         absl::StartsWith(text, "//") || absl::StartsWith(text, "/*");
}

}  // namespace

std::vector<Token> Tokenize(absl::string_view text) {
  std::vector<Token> tokens;
  int line = 1;
  while (!text.empty()) {
    const absl::string_view token = text.substr(0, LengthOf(text));
    if (!IsSpace(token)) tokens.push_back({token, line});
    line += static_cast<int>(std::count(token.begin(), token.end(), '\n'));
    text.remove_prefix(token.size());
  }
  tokens.push_back({{}, line});
  return tokens;
}

absl::string_view TokenReader::Next() {
  const absl::string_view text = Peek();
  if (!text.empty()) ++at_;
  return text;
}

bool TokenReader::Accept(absl::string_view text) {
  if (Peek() != text) return false;
  Next();
  return true;
}

void TokenReader::Expect(absl::string_view text) {
  if (!Accept(text)) Fail(absl::StrCat("'", Peek(), "' in place of ", text));
}

uint32_t TokenReader::Number() {
  uint32_t number = 0;
  if (!absl::SimpleAtoi(Peek(), &number)) Fail("not a number");
  Next();
  return number;
}

std::optional<uint64_t> TokenReader::AcceptConstant() {
  const bool negative = Accept("-");
  absl::string_view text = Peek();
  const bool number = !text.empty() && text[0] >= '0' && text[0] <= '9';
  if (!number && !negative) return std::nullopt;
  uint64_t value = 0;
  if (text.substr(0, 2) == "0f" || text.substr(0, 2) == "0x") {
    if (!absl::SimpleHexAtoi(text.substr(2), &value)) Fail("not a number");
  } else if (!absl::SimpleAtoi(text, &value)) {
    Fail("not a number");
  }
  Next();
  return negative ? 0 - value : value;
}

void TokenReader::SkipLine() {
  const int line = this->line();
  while (!Peek().empty() && this->line() == line) Next();
}

void TokenReader::Fail(absl::string_view what, int line) {
  if (ok()) error_ = absl::StrCat("line ", line, ": ", what);
  at_ = tokens_.size() - 1;
}

}  // namespace graft::ptx

#include "server/tokenizer/clip_text.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>
#include <unicode/utf8.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/strings/match.h"
#include "absl/types/span.h"
#include "server/tokenizer/unicode_additions.h"

namespace graft {
namespace {

// Written whole by the pattern, but taken apart by the byte-level step after
// it.
constexpr absl::string_view kStartOfText = "<|startoftext|>";
constexpr absl::string_view kEndOfText = "<|endoftext|>";

constexpr absl::string_view kEndings[] = {"'s", "'t",  "'re", "'ve",
                                          "'m", "'ll", "'d"};

// ICU fails here only if its data are missing or memory is: nothing sensible
// can follow.
void CheckIcu(UErrorCode status) {
  if (U_FAILURE(status)) std::abort();
}

std::unique_ptr<const icu::UnicodeSet> MakeSet(
    const char* pattern, absl::Span<const CodePointRange> additions) {
  UErrorCode status = U_ZERO_ERROR;
  auto set = std::make_unique<icu::UnicodeSet>(
      icu::UnicodeString::fromUTF8(pattern), status);
  CheckIcu(status);
  for (const CodePointRange& range : additions)
    set->add(range.first, range.last);
  set->freeze();
  return set;
}

// Characters by the reference's Unicode versions. "Age" keeps out what a newer
// ICU knows, the additions bring in what an older one does not.
class Characters {
 public:
  static const Characters& Get() {
    static const auto* const characters = new Characters;
    return *characters;
  }

  bool IsLetter(UChar32 c) const { return letters_->contains(c); }
  bool IsNumber(UChar32 c) const { return numbers_->contains(c); }

  UChar32 ToLower(UChar32 c) const {
    for (const LowerCaseRange& range : kLowerCaseAdditions) {
      if (c >= range.first && c <= range.last) return c + range.offset;
    }
    return known_->contains(c) ? u_tolower(c) : c;
  }

  std::string Compose(absl::string_view text) const {
    std::string composed;
    icu::StringByteSink<std::string> sink(&composed);
    UErrorCode status = U_ZERO_ERROR;
    nfc_->normalizeUTF8(
        0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())),
        sink, nullptr, status);
    CheckIcu(status);
    return composed;
  }

 private:
  Characters()
      : known_(MakeSet("[:Age=17.0:]", {})),
        letters_(MakeSet("[[:L:]&[:Age=16.0:]]", kLetterAdditions)),
        numbers_(MakeSet("[[:N:]&[:Age=16.0:]]", kNumberAdditions)),
        composable_(MakeSet("[:Age=9.0:]", {})) {
    UErrorCode status = U_ZERO_ERROR;
    const icu::Normalizer2* const nfc =
        icu::Normalizer2::getNFCInstance(status);
    CheckIcu(status);
    nfc_ = std::make_unique<icu::FilteredNormalizer2>(*nfc, *composable_);
  }

  std::unique_ptr<const icu::UnicodeSet> known_;
  std::unique_ptr<const icu::UnicodeSet> letters_;
  std::unique_ptr<const icu::UnicodeSet> numbers_;
  std::unique_ptr<const icu::UnicodeSet> composable_;
  std::unique_ptr<const icu::FilteredNormalizer2> nfc_;
};

void AppendUtf8(UChar32 c, std::string& text) {
  char buffer[U8_MAX_LENGTH];
  int32_t size = 0;
  U8_APPEND_UNSAFE(buffer, size, c);
  text.append(buffer, size);
}

// Reads the code point at `position` and moves behind it.
UChar32 NextCodePoint(absl::string_view text, size_t& position) {
  UChar32 c = 0;
  U8_NEXT_UNSAFE(text.data(), position, c);
  return c;
}

enum class Kind { kSpace, kLetter, kNumber, kOther };

Kind KindAt(const Characters& characters, absl::string_view text,
            size_t position, size_t& next) {
  next = position;
  const UChar32 c = NextCodePoint(text, next);
  if (c == ' ') return Kind::kSpace;
  if (characters.IsLetter(c)) return Kind::kLetter;
  if (characters.IsNumber(c)) return Kind::kNumber;
  return Kind::kOther;
}

// Length of the English ending at the start of `text`, 0 if there is none.
size_t EndingLength(absl::string_view text) {
  for (const absl::string_view ending : kEndings) {
    if (absl::StartsWith(text, ending)) return ending.size();
  }
  return 0;
}

// Length of the run of `kind` at the start of `text`.
size_t RunLength(const Characters& characters, absl::string_view text,
                 Kind kind) {
  size_t end = 0;
  size_t next = 0;
  while (end < text.size() && KindAt(characters, text, end, next) == kind) {
    end = next;
  }
  return end;
}

// Appends the parts of `marker` and returns true if `text` begins with it.
bool SplitMarker(absl::string_view text, absl::string_view marker,
                 std::vector<absl::string_view>& words) {
  if (!absl::StartsWith(text, marker)) return false;
  words.push_back(text.substr(0, 2));
  words.push_back(text.substr(2, marker.size() - 4));
  words.push_back(text.substr(marker.size() - 2, 2));
  return true;
}

}  // namespace

std::string NormalizeClipText(absl::string_view text) {
  const Characters& characters = Characters::Get();
  const std::string composed = characters.Compose(text);
  std::string normalized;
  normalized.reserve(composed.size());
  bool after_space = false;
  for (size_t position = 0; position < composed.size();) {
    const UChar32 c = NextCodePoint(composed, position);
    if (u_isUWhiteSpace(c)) {
      if (!after_space) normalized += ' ';
      after_space = true;
      continue;
    }
    after_space = false;
    AppendUtf8(characters.ToLower(c), normalized);
    // The one character whose lower case is two: capital I with a dot.
    if (c == 0x130) AppendUtf8(0x307, normalized);
  }
  return normalized;
}

std::vector<absl::string_view> SplitClipWords(absl::string_view normalized) {
  const Characters& characters = Characters::Get();
  std::vector<absl::string_view> words;
  absl::string_view rest = normalized;
  while (!rest.empty()) {
    bool split = false;
    for (const absl::string_view marker : {kStartOfText, kEndOfText}) {
      if (!split && SplitMarker(rest, marker, words)) {
        rest.remove_prefix(marker.size());
        split = true;
      }
    }
    if (split) continue;
    size_t length = EndingLength(rest);
    size_t next = 0;
    const Kind kind = KindAt(characters, rest, 0, next);
    if (length == 0) {
      const bool run = kind == Kind::kLetter || kind == Kind::kOther;
      length = run ? RunLength(characters, rest, kind) : next;
    }
    if (kind != Kind::kSpace) words.push_back(rest.substr(0, length));
    rest.remove_prefix(length);
  }
  return words;
}

}  // namespace graft

#include "server/image/png_encoder.h"

#include <png.h>

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/common/utf8.h"

namespace graft {
namespace {

// zlib's default, written down so that the bytes stay the same.
constexpr int kCompressionLevel = 6;

// What libpng's callbacks work on. libpng leaves them by longjmp, which skips
// destructors: everything with one lives here or above EncodePng's call, never
// in a frame that can be jumped over.
struct WriteState {
  std::string file;
  char error[128] = "out of memory";  // libpng's message, once there is one
};

[[noreturn]] void OnError(png_structp png, png_const_charp message) {
  auto* const state = static_cast<WriteState*>(png_get_error_ptr(png));
  std::snprintf(state->error, sizeof(state->error), "%s", message);
  png_longjmp(png, 1);
}

// libpng warns where it changes what it was given (a keyword, say): for us that
// is an error too.
void OnWarning(png_structp png, png_const_charp message) {
  OnError(png, message);
}

// No exception may pass through libpng's C frames, and no longjmp may leave a
// handler: hence the flag.
void OnWrite(png_structp png, png_bytep data, size_t size) {
  auto* const state = static_cast<WriteState*>(png_get_io_ptr(png));
  bool stored = true;
  try {
    state->file.append(reinterpret_cast<const char*>(data), size);
  } catch (const std::bad_alloc&) {
    stored = false;
  }
  if (!stored) png_error(png, "out of memory");
}

void OnFlush(png_structp /*png*/) {}

// Everything that can longjmp. No object here has a destructor. Returns false
// after an error, whose message is in the WriteState.
bool WritePng(png_structp png, png_infop info, const Image& image,
              png_textp text, int num_text) {
  if (setjmp(png_jmpbuf(png)) != 0) return false;
  png_set_compression_level(png, kCompressionLevel);
  png_set_IHDR(png, info, static_cast<png_uint_32>(image.width),
               static_cast<png_uint_32>(image.height), /*bit_depth=*/8,
               PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_BASE, PNG_FILTER_TYPE_BASE);
  png_set_text(png, info, text, num_text);
  png_write_info(png, info);
  const size_t row_bytes = static_cast<size_t>(image.width) * 3;
  for (int row = 0; row < image.height; ++row) {
    png_write_row(png, image.rgb.data() + row * row_bytes);
  }
  png_write_end(png, info);
  return true;
}

// A text chunk's content in the encoding of its kind.
struct EncodedText {
  std::string keyword;
  std::string text;
  bool is_latin1 = true;
};

// U+0020..7E and U+A0..FF and line feed: what the PNG specification allows in a
// tEXt chunk.
bool IsPngLatin1(uint32_t code_point) {
  return code_point == '\n' || (code_point >= 0x20 && code_point <= 0x7E) ||
         (code_point >= 0xA0 && code_point <= 0xFF);
}

// `text` (valid UTF-8) in Latin-1; nullopt if it has a character that a tEXt
// chunk cannot hold. U+00A0..FF are C2 A0..BF and C3 80..BF in UTF-8.
std::optional<std::string> ToLatin1(absl::string_view text) {
  std::string latin1;
  for (size_t i = 0; i < text.size(); ++i) {
    uint32_t code_point = static_cast<uint8_t>(text[i]);
    if ((code_point == 0xC2 || code_point == 0xC3) && i + 1 < text.size()) {
      code_point =
          (code_point & 0x03) << 6 | (static_cast<uint8_t>(text[++i]) & 0x3F);
    } else if (code_point >= 0x80) {
      return std::nullopt;
    }
    if (!IsPngLatin1(code_point)) return std::nullopt;
    latin1 += static_cast<char>(code_point);
  }
  return latin1;
}

absl::StatusOr<std::vector<EncodedText>> EncodeText(const PngText& text) {
  std::vector<EncodedText> encoded;
  for (const auto& [keyword, value] : text) {
    if (!IsValidUtf8(value) || value.find('\0') != std::string::npos) {
      return InvalidField(
          EscapeUntrusted(keyword),
          "a text chunk must be valid UTF-8 without NUL characters");
    }
    const std::optional<std::string> latin1 = ToLatin1(value);
    encoded.push_back({keyword, latin1.value_or(value), latin1.has_value()});
  }
  return encoded;
}

// Points into `encoded`, which must outlive the result.
std::vector<png_text> PointersTo(std::vector<EncodedText>& encoded) {
  static char no_language[] = "";
  std::vector<png_text> pointers;
  for (EncodedText& chunk : encoded) {
    png_text pointer = {};
    pointer.compression =
        chunk.is_latin1 ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    pointer.key = chunk.keyword.data();
    pointer.text = chunk.text.data();
    pointer.text_length = chunk.is_latin1 ? chunk.text.size() : 0;
    pointer.itxt_length = chunk.is_latin1 ? 0 : chunk.text.size();
    pointer.lang = no_language;
    pointer.lang_key = no_language;
    pointers.push_back(pointer);
  }
  return pointers;
}

absl::Status CheckSize(const Image& image) {
  if (image.width <= 0 || image.height <= 0) {
    return InvalidField("image", absl::StrCat("an image of ", image.width, "x",
                                              image.height, " pixels"));
  }
  const uint64_t needed =
      uint64_t{3} * static_cast<uint64_t>(image.width) * image.height;
  if (image.rgb.size() != needed) {
    return InvalidField(
        "image", absl::StrCat(image.width, "x", image.height, " pixels need ",
                              needed, " bytes, not ", image.rgb.size()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> EncodePng(const Image& image, const PngText& text) {
  GRAFT_RETURN_IF_ERROR(CheckSize(image));
  GRAFT_ASSIGN_OR_RETURN(std::vector<EncodedText> encoded, EncodeText(text));
  std::vector<png_text> chunks = PointersTo(encoded);

  WriteState state;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &state,
                                            &OnError, &OnWarning);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  bool written = false;
  if (info != nullptr) {
    png_set_write_fn(png, &state, &OnWrite, &OnFlush);
    written = WritePng(png, info, image, chunks.data(),
                       static_cast<int>(chunks.size()));
  }
  png_destroy_write_struct(&png, &info);
  if (!written) {
    return Error(ErrorReason::kInternal,
                 absl::StrCat("cannot encode the PNG: ", state.error));
  }
  return std::move(state.file);
}

}  // namespace graft

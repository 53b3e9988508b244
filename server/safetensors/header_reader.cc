#include "server/safetensors/header_reader.h"

#include <cstddef>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kMetadataKey = "__metadata__";

// The header, an entry, its arrays: 3. One more for fields that we ignore.
constexpr int kMaxDepth = 4;

// LibTorch's own limit; also keeps "shape" from outgrowing its JSON by much.
constexpr size_t kMaxDimensions = 64;

// Takes nlohmann's parser events. The parser itself keeps its nesting in a
// vector, not on the stack, and stops at the first `false`.
class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderHandler(absl::string_view file) : file_(file) {}

  SafetensorsHeader TakeHeader() { return std::move(header_); }
  const absl::Status& status() const { return status_; }

  bool start_object(size_t /*elements*/) override {
    if (!Descend()) return false;
    switch (place_) {
      case Place::kOutside:
        place_ = Place::kHeader;
        return true;
      case Place::kHeader:
        if (key_ == kMetadataKey) {
          place_ = Place::kMetadata;
          return true;
        }
        return BeginEntry();
      default:
        return SurplusValue("an object");
    }
  }

  bool end_object() override {
    --depth_;
    switch (place_) {
      case Place::kEntry:
        place_ = Place::kHeader;
        return EndEntry();
      case Place::kMetadata:
        place_ = Place::kHeader;
        return true;
      case Place::kSurplus:
        LeaveSurplus();
        return true;
      default:
        return true;
    }
  }

  bool start_array(size_t /*elements*/) override {
    if (!Descend()) return false;
    if (place_ == Place::kEntry && field_ == "shape") {
      place_ = Place::kShape;
      return true;
    }
    if (place_ == Place::kEntry && field_ == "data_offsets") {
      place_ = Place::kOffsets;
      return true;
    }
    return SurplusValue("an array");
  }

  bool end_array() override {
    --depth_;
    if (place_ == Place::kOffsets && offsets_.size() != 2) {
      return Fail("data_offsets must be two integers");
    }
    if (place_ == Place::kSurplus) {
      LeaveSurplus();
    } else {
      place_ = Place::kEntry;
    }
    return true;
  }

  bool key(Json::string_t& name) override {
    if (name.find('\0') != std::string::npos) {
      return Fail("a name in the header has a NUL character");
    }
    switch (place_) {
      case Place::kHeader:
        key_ = name;
        return header_keys_.insert(name).second ||
               Fail("listed twice in the header");
      case Place::kMetadata:
        metadata_key_ = name;
        return header_.metadata.emplace(name, "").second ||
               Fail(absl::StrCat("key \"", EscapeUntrusted(name),
                                 "\" appears twice"));
      case Place::kEntry:
        field_ = name;
        return fields_.insert(name).second ||
               Fail(absl::StrCat("field \"", EscapeUntrusted(name),
                                 "\" appears twice"));
      default:
        return true;
    }
  }

  bool string(Json::string_t& value) override {
    if (place_ == Place::kMetadata) {
      if (value.find('\0') != std::string::npos) {
        return Fail("a metadata value has a NUL character");
      }
      header_.metadata[metadata_key_] = value;
      return true;
    }
    if (place_ == Place::kEntry && field_ == "dtype") {
      dtype_ = TensorDtypeFromName(value);
      return dtype_.has_value() ||
             Fail(absl::StrCat("dtype \"", EscapeUntrusted(value),
                               "\" is not supported"));
    }
    return OtherScalar("a string");
  }

  bool number_unsigned(Json::number_unsigned_t value) override {
    if (place_ == Place::kShape) return AddDimension(value);
    if (place_ == Place::kOffsets) {
      if (offsets_.size() == 2) {
        return Fail("data_offsets must be two integers");
      }
      offsets_.push_back(value);
      return true;
    }
    return OtherScalar("a number");
  }

  // Only for literals with a minus sign; fractions, exponents and values of
  // more than 64 bits come to number_float.
  bool number_integer(Json::number_integer_t /*value*/) override {
    return OtherScalar("a negative number");
  }
  bool number_float(Json::number_float_t /*value*/,
                    const Json::string_t& /*literal*/) override {
    return OtherScalar("a number that is no 64-bit integer");
  }
  bool null() override {
    // As the reference reader has it: the same as no metadata.
    if (place_ == Place::kHeader && key_ == kMetadataKey) return true;
    return OtherScalar("null");
  }
  bool boolean(bool /*value*/) override { return OtherScalar("a boolean"); }
  bool binary(Json::binary_t& /*value*/) override {
    return OtherScalar("binary data");
  }

  bool parse_error(size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& /*error*/) override {
    status_ = CorruptFile(
        file_, absl::StrCat("the header is not valid UTF-8 JSON (byte ",
                            position, ")"));
    return false;
  }

 private:
  // Where in the header the next value stands.
  enum class Place {
    kOutside,   // before the header's brace
    kHeader,    // tensor names
    kMetadata,  // inside "__metadata__"
    kEntry,     // inside one tensor's object
    kShape,
    kOffsets,
    kSurplus,  // inside a field of an entry that the format does not know
  };

  bool Descend() {
    return ++depth_ <= kMaxDepth ||
           Fail(absl::StrCat("the header is nested deeper than ", kMaxDepth));
  }

  bool BeginEntry() {
    place_ = Place::kEntry;
    entry_ = HeaderEntry();
    dtype_.reset();
    fields_.clear();
    offsets_.clear();
    return true;
  }

  bool EndEntry() {
    for (const char* const field : {"dtype", "shape", "data_offsets"}) {
      if (fields_.count(field) == 0) {
        return Fail(absl::StrCat("field \"", field, "\" is missing"));
      }
    }
    entry_.dtype = *dtype_;
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    header_.entries.emplace(key_, std::move(entry_));
    return true;
  }

  bool AddDimension(uint64_t value) {
    if (value > uint64_t{std::numeric_limits<int64_t>::max()}) {
      return Fail(absl::StrCat("dimension ", value, " is too large"));
    }
    if (entry_.shape.size() == kMaxDimensions) {
      return Fail(
          absl::StrCat("shape has more than ", kMaxDimensions, " dimensions"));
    }
    entry_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool IsKnownField() const {
    return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets";
  }

  // An object or array where only a surplus field may have one.
  bool SurplusValue(absl::string_view what) {
    if (place_ != Place::kSurplus &&
        (place_ != Place::kEntry || IsKnownField())) {
      return Misplaced(what);
    }
    place_ = Place::kSurplus;
    ++surplus_depth_;
    return true;
  }

  void LeaveSurplus() {
    if (--surplus_depth_ == 0) place_ = Place::kEntry;
  }

  // A scalar that no known field takes: fine in a surplus field only.
  bool OtherScalar(absl::string_view what) {
    if (place_ == Place::kSurplus ||
        (place_ == Place::kEntry && !IsKnownField())) {
      return true;
    }
    return Misplaced(what);
  }

  bool Misplaced(absl::string_view what) {
    switch (place_) {
      case Place::kOutside:
        return Fail(absl::StrCat("the header is ", what, ", not an object"));
      case Place::kHeader:
        return Fail(absl::StrCat("described by ", what, ", not an object"));
      case Place::kMetadata:
        return Fail(absl::StrCat("value of \"", EscapeUntrusted(metadata_key_),
                                 "\" is ", what, ", not a string"));
      case Place::kShape:
        return Fail(
            absl::StrCat("shape has ", what, "; dimensions are whole numbers"));
      case Place::kOffsets:
        return Fail(absl::StrCat("data_offsets has ", what,
                                 "; offsets are whole numbers"));
      default:
        return Fail(
            absl::StrCat("field \"", EscapeUntrusted(field_), "\" is ", what));
    }
  }

  bool Fail(absl::string_view problem) {
    status_ = header_keys_.empty() ? CorruptFile(file_, problem)
                                   : CorruptFile(file_, key_, problem);
    return false;
  }

  const absl::string_view file_;
  absl::Status status_;
  SafetensorsHeader header_;
  std::set<std::string> header_keys_;

  Place place_ = Place::kOutside;
  int depth_ = 0;
  int surplus_depth_ = 0;
  std::string key_;           // of the header: a tensor or "__metadata__"
  std::string metadata_key_;  // inside "__metadata__"
  std::string field_;         // of the tensor
  HeaderEntry entry_;
  std::optional<TensorDtype> dtype_;
  std::vector<uint64_t> offsets_;
  std::set<std::string> fields_;
};

}  // namespace

absl::Status CorruptFile(absl::string_view file, absl::string_view tensor,
                         absl::string_view problem) {
  const std::string name = EscapeUntrusted(tensor);
  return Error(
      ErrorReason::kAdapterCorrupt,
      absl::StrCat(EscapeUntrusted(file), ": tensor \"", name, "\": ", problem,
                   "; the file is damaged or not safetensors, get it "
                   "again or export it anew"),
      {{"tensor", name}});
}

absl::Status CorruptFile(absl::string_view file, absl::string_view problem) {
  return Error(
      ErrorReason::kAdapterCorrupt,
      absl::StrCat(EscapeUntrusted(file), ": ", problem,
                   "; the file is damaged or not safetensors, get it again or "
                   "export it anew"));
}

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(
    absl::string_view json, absl::string_view file) {
  // The format asks for the brace first, and the reference reader takes blanks
  // before it. nlohmann would skip a byte-order mark, and take a NUL for the
  // end of the text and not look at what follows it.
  const size_t first = json.find_first_not_of(" \t\n\r");
  if (first == absl::string_view::npos || json[first] != '{') {
    return CorruptFile(file, "the header does not begin with '{'");
  }
  if (json.find('\0') != absl::string_view::npos) {
    return CorruptFile(file, "the header has a NUL byte");
  }
  HeaderHandler handler(file);
  if (!Json::sax_parse(json.begin(), json.end(), &handler)) {
    return handler.status();
  }
  return handler.TakeHeader();
}

}  // namespace graft

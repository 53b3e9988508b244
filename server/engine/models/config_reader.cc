#include "server/engine/models/config_reader.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/json_depth.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Json = nlohmann::json;

// True for a value that asks for nothing: a feature that is off.
bool IsOff(const Json& value) {
  return value.is_null() || value == Json(false) ||
         (value.is_number() && value.get<double>() == 0) ||
         ((value.is_string() || value.is_structured()) && value.empty()) ||
         value == Json("");
}

// Python's json writes infinities as bare words, which JSON does not know:
// puts them in quotes, outside of strings. Double() understands them.
std::string QuoteInfinities(const std::string& text) {
  std::string quoted;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!in_string && (text.compare(i, 9, "-Infinity") == 0 ||
                       text.compare(i, 8, "Infinity") == 0)) {
      const size_t length = text[i] == '-' ? 9 : 8;
      absl::StrAppend(&quoted, "\"", text.substr(i, length), "\"");
      i += length - 1;
      continue;
    }
    if (in_string && text[i] == '\\') {
      quoted += text[i++];
      if (i == text.size()) break;
    } else if (text[i] == '"') {
      in_string = !in_string;
    }
    quoted += text[i];
  }
  return quoted;
}

}  // namespace

absl::StatusOr<Json> ReadJsonObject(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat(path, ": cannot be read: ", std::strerror(errno)),
                 {{"file", path}});
  }
  const std::string text((std::istreambuf_iterator<char>(stream)),
                         std::istreambuf_iterator<char>());
  if (JsonDepth(text) > kMaxJsonDepth) {
    return Error(ErrorReason::kModelUnsupported,
                 absl::StrCat(path, ": is nested deeper than ", kMaxJsonDepth),
                 {{"file", path}});
  }
  Json json = Json::parse(QuoteInfinities(text), nullptr,
                          /*allow_exceptions=*/false);
  if (json.is_object()) return json;
  return Error(ErrorReason::kModelUnsupported,
               absl::StrCat(path, ": is not a JSON object"), {{"file", path}});
}

struct ConfigReader::Document {
  Json json;
  std::set<std::string> read;

  // The value of `key`; null where it is absent. Marks it as read.
  const Json& Value(absl::string_view key) {
    static const Json* const null = new Json();
    const std::string name(key);
    read.insert(name);
    const auto it = json.find(name);
    return it == json.end() ? *null : *it;
  }
};

absl::StatusOr<ConfigReader> ConfigReader::Open(const std::string& path) {
  auto document = std::make_unique<Document>();
  GRAFT_ASSIGN_OR_RETURN(document->json, ReadJsonObject(path));
  return ConfigReader(path, std::move(document));
}

ConfigReader::ConfigReader(std::string path, std::unique_ptr<Document> document)
    : path_(std::move(path)), document_(std::move(document)) {}
ConfigReader::ConfigReader(ConfigReader&&) noexcept = default;
ConfigReader::~ConfigReader() = default;

absl::Status ConfigReader::Unsupported(absl::string_view key,
                                       absl::string_view problem) const {
  return Error(ErrorReason::kModelUnsupported,
               absl::StrCat(path_, ": \"", key, "\" ", problem),
               {{"file", path_}, {"key", std::string(key)}});
}

void ConfigReader::Fail(absl::string_view key, absl::string_view problem) {
  if (status_.ok()) status_ = Unsupported(key, problem);
}

int64_t ConfigReader::Int(absl::string_view key, int64_t fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return fallback;
  if (!value.is_number_integer()) {
    Fail(key, "is not an integer");
    return fallback;
  }
  return value.get<int64_t>();
}

double ConfigReader::Double(absl::string_view key, double fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return fallback;
  if (value == "Infinity") return std::numeric_limits<double>::infinity();
  if (value == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (!value.is_number()) {
    Fail(key, "is not a number");
    return fallback;
  }
  return value.get<double>();
}

bool ConfigReader::Bool(absl::string_view key, bool fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    Fail(key, "is neither true nor false");
    return fallback;
  }
  return value.get<bool>();
}

std::string ConfigReader::String(absl::string_view key,
                                 absl::string_view fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return std::string(fallback);
  if (!value.is_string()) {
    Fail(key, "is not a string");
    return std::string(fallback);
  }
  return value.get<std::string>();
}

std::vector<std::string> ConfigReader::Strings(
    absl::string_view key, const std::vector<std::string>& fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return fallback;
  std::vector<std::string> strings;
  if (value.is_array()) {
    for (const Json& item : value) {
      if (item.is_string()) strings.push_back(item.get<std::string>());
    }
  }
  if (strings.empty() || strings.size() != value.size()) {
    Fail(key, "is not a list of strings");
    return fallback;
  }
  return strings;
}

std::vector<double> ConfigReader::Doubles(absl::string_view key) {
  const Json& value = document_->Value(key);
  std::vector<double> numbers;
  if (value.is_null()) return numbers;
  if (value.is_array()) {
    for (const Json& item : value) {
      if (item.is_number()) numbers.push_back(item.get<double>());
    }
  }
  if (numbers.empty() || numbers.size() != value.size()) {
    Fail(key, "is not a list of numbers");
    numbers.clear();
  }
  return numbers;
}

std::vector<int64_t> ConfigReader::IntList(
    absl::string_view key, const std::vector<int64_t>& fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return fallback;
  std::vector<int64_t> numbers;
  if (value.is_array()) {
    for (const Json& item : value) {
      if (item.is_number_integer()) numbers.push_back(item.get<int64_t>());
    }
  }
  if (numbers.empty() || numbers.size() != value.size()) {
    Fail(key, "is not a list of integers");
    return fallback;
  }
  return numbers;
}

std::vector<int64_t> ConfigReader::Ints(absl::string_view key, size_t size,
                                        int64_t fallback) {
  const Json& value = document_->Value(key);
  if (value.is_null() || value.is_number()) {
    return std::vector<int64_t>(size, Int(key, fallback));
  }
  std::vector<int64_t> numbers =
      IntList(key, std::vector<int64_t>(size, fallback));
  if (numbers.size() != size) {
    Fail(key, absl::StrCat("has ", numbers.size(), " entries, not ", size));
    numbers.assign(size, fallback);
  }
  return numbers;
}

bool ConfigReader::IsNull(absl::string_view key) {
  return document_->json.contains(std::string(key)) &&
         document_->Value(key).is_null();
}

void ConfigReader::Ignore(std::initializer_list<absl::string_view> keys) {
  for (const absl::string_view key : keys) document_->Value(key);
}

void ConfigReader::RequireValue(absl::string_view key,
                                absl::string_view allowed) {
  const Json& value = document_->Value(key);
  if (value.is_null()) return;
  const Json expected = Json::parse(std::string(allowed));
  const bool equal = value.is_number() && expected.is_number()
                         ? value.get<double>() == expected.get<double>()
                         : value == expected;
  if (!equal) {
    Fail(key, absl::StrCat("is ", value.dump().substr(0, 80), ", and only ",
                           allowed, " is supported"));
  }
}

absl::Status ConfigReader::Finish() {
  for (const auto& [key, value] : document_->json.items()) {
    if (!status_.ok()) break;
    if (key.empty() || key[0] == '_' || document_->read.count(key) > 0) {
      continue;
    }
    if (!IsOff(value)) {
      Fail(key, absl::StrCat("is not supported (it is ",
                             value.dump().substr(0, 80), ")"));
    }
  }
  return status_;
}

}  // namespace graft

#ifndef GRAFT_SERVER_ENGINE_MODELS_CONFIG_READER_H_
#define GRAFT_SERVER_ENGINE_MODELS_CONFIG_READER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

namespace graft {

// The JSON object that a file of the model holds, with infinities, which Python
// writes as bare words, as strings. MODEL_UNSUPPORTED names the file.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path);

// Reads one config.json key by key and remembers which keys were read, so that
// nothing in it is silently ignored. Errors are MODEL_UNSUPPORTED and name the
// file and the key.
//
// A read that fails leaves its first error in status() and returns the default,
// so that a struct can be filled in one go and status() checked once.
class ConfigReader {
 public:
  // Reads and parses the file, which must hold one JSON object.
  static absl::StatusOr<ConfigReader> Open(const std::string& path);

  ConfigReader(ConfigReader&&) noexcept;
  ~ConfigReader();

  // The value of `key`, or `fallback` where it is absent or null.
  int64_t Int(absl::string_view key, int64_t fallback);
  double Double(absl::string_view key, double fallback);
  bool Bool(absl::string_view key, bool fallback);
  std::string String(absl::string_view key, absl::string_view fallback);
  std::vector<std::string> Strings(absl::string_view key,
                                   const std::vector<std::string>& fallback);
  std::vector<double> Doubles(absl::string_view key);
  // A list of `size` integers; a single integer stands for as many of it.
  std::vector<int64_t> Ints(absl::string_view key, size_t size,
                            int64_t fallback);
  std::vector<int64_t> IntList(absl::string_view key,
                               const std::vector<int64_t>& fallback);

  // True if `key` is there and null, where that is no default.
  bool IsNull(absl::string_view key);

  // Keys that only matter elsewhere (training, saving): read and dropped.
  void Ignore(std::initializer_list<absl::string_view> keys);

  // An error unless `key` is absent, null or equal to `allowed` (JSON text).
  void RequireValue(absl::string_view key, absl::string_view allowed);

  // An error for every key never read whose value is neither null, false,
  // zero, empty nor the name of something private ("_class_name").
  absl::Status Finish();

  // An error about `key` in this file.
  absl::Status Unsupported(absl::string_view key,
                           absl::string_view problem) const;

  const absl::Status& status() const { return status_; }
  const std::string& path() const { return path_; }

 private:
  struct Document;
  ConfigReader(std::string path, std::unique_ptr<Document> document);

  void Fail(absl::string_view key, absl::string_view problem);

  std::string path_;
  std::unique_ptr<Document> document_;
  absl::Status status_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_MODELS_CONFIG_READER_H_

#ifndef GRAFT_SERVER_COMMON_SHA256_H_
#define GRAFT_SERVER_COMMON_SHA256_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace graft {

// Incremental SHA-256 (FIPS 180-4). Thread-compatible.
//
//   Sha256 hash;
//   hash.Update(data, size);
//   std::string digest = hash.HexDigest();  // 64 lower-case digits
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(const void* data, size_t size);
  void Update(absl::string_view text) { Update(text.data(), text.size()); }

  // Ends the hash. REQUIRES: called once, and no Update after it.
  std::string HexDigest();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// The digest of one buffer.
std::string Sha256Hex(const void* data, size_t size);

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_SHA256_H_

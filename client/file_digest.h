#ifndef GRAFT_CLIENT_FILE_DIGEST_H_
#define GRAFT_CLIENT_FILE_DIGEST_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace graft {

// What a file's content is.
struct FileDigest {
  std::string sha256;  // 64 lower-case hexadecimal digits
  uint64_t size = 0;   // bytes
};

// Reads the file `path` to its end. NOT_FOUND if it cannot be read.
absl::StatusOr<FileDigest> DigestFile(const std::string& path);

}  // namespace graft

#endif  // GRAFT_CLIENT_FILE_DIGEST_H_

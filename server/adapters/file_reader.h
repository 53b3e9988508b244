#ifndef GRAFT_SERVER_ADAPTERS_FILE_READER_H_
#define GRAFT_SERVER_ADAPTERS_FILE_READER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_file.h"

namespace graft {

// read(2), or what a test puts in its place.
using ReadFunction = std::function<ssize_t(int fd, void* buffer, size_t size)>;

// Whether a file of so many bytes is wanted, asked before memory is taken for
// it; null: any is.
using SizeCheck = std::function<absl::Status(int64_t bytes)>;

// Reads the whole of a regular file from its descriptor and hashes what was
// read. Mapping it instead would end the process if somebody truncated the file
// later. `path` is for messages. ADAPTER_CORRUPT if it is no regular file,
// cannot be read, or changes meanwhile; ADAPTER_TOO_LARGE; what `check_size`
// says; GPU_OUT_OF_MEMORY when the host has no memory for it.
absl::StatusOr<AdapterFile> ReadWholeFile(
    int fd, absl::string_view path, int64_t max_bytes, const ReadFunction& read,
    const SizeCheck& check_size = nullptr);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_FILE_READER_H_

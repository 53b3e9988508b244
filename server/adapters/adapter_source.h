#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_

#include <unistd.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_file.h"
#include "server/adapters/file_reader.h"
#include "server/adapters/open_beneath.h"

namespace graft {

// Reads adapter files below one directory, which may hold anything: nothing in
// it can block the caller, lead outside, or be used before it is checked. The
// directory is opened anew for every file, so it may come and go while the
// server runs. Immutable, thread-safe.
class AdapterSource {
 public:
  struct Options {
    std::string directory;  // empty: no file can be read
    int64_t max_file_bytes = int64_t{4} << 30;
  };

  // `read`: for tests, in place of read(2).
  explicit AdapterSource(Options options, ReadFunction read = ::read);

  // The checks that `path` alone is enough for: INVALID_FIELD (field "path") if
  // it is empty, too long or not UTF-8 text without control characters,
  // PATH_NOT_ALLOWED if it is absolute or has "..".
  static absl::Status CheckPath(absl::string_view path);

  // Reads the file at `path`, relative to the directory, or, if that is a
  // directory, the two files of the PEFT folder there. `check_size` is asked
  // about the AdapterFile::size_bytes() to come, before the tensors are read,
  // and its error returned. Blocks on the disk.
  //   INVALID_FIELD                 as CheckPath
  //   ADAPTER_DIR_NOT_SET           no directory
  //   PATH_NOT_ALLOWED              as CheckPath, or a link in it leads outside
  //   ADAPTER_NOT_FOUND             no such file
  //   ADAPTER_TOO_LARGE             above max_file_bytes, or a folder's
  //                                 configuration above
  //                                 AdapterConfig::kMaxBytes
  //   ADAPTER_CORRUPT               no regular .safetensors file and no PEFT
  //                                 folder, unreadable, or changed while it
  //                                 was read
  absl::StatusOr<AdapterFile> Read(absl::string_view path,
                                   const SizeCheck& check_size = nullptr) const;

  // ADAPTER_DIR_NOT_SET, or what Read answers when the directory is not there:
  // tells its absence from that of a file.
  absl::Status CheckDirectory() const;

  // The stamp of the file at `path`, which changes when the file does. Errors
  // as Read, as far as they can be told without reading.
  absl::StatusOr<FileStamp> Stamp(absl::string_view path) const;

 private:
  absl::StatusOr<AdapterFile> ReadFile(int directory, absl::string_view path,
                                       int64_t max_bytes,
                                       const SizeCheck& check_size) const;
  absl::StatusOr<AdapterFile> ReadPeftFolder(int directory,
                                             absl::string_view path,
                                             const SizeCheck& check_size) const;

  // The adapter directory, for a file at `path` in it.
  absl::StatusOr<FileDescriptor> OpenDirectory(absl::string_view path) const;

  const Options options_;
  const ReadFunction read_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_SOURCE_H_

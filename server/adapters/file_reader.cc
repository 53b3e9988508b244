#include "server/adapters/file_reader.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// Large enough to keep calls few, small enough to be hashed from the cache.
constexpr size_t kChunkBytes = size_t{1} << 20;

absl::Status Unusable(absl::string_view path, absl::string_view problem) {
  return Error(ErrorReason::kAdapterCorrupt,
               absl::StrCat(EscapeUntrusted(path), ": ", problem));
}

absl::Status Changed(absl::string_view path) {
  return Unusable(path,
                  "the file changed while it was read; load it again when it "
                  "is complete");
}

absl::StatusOr<struct stat> Inspect(int fd, absl::string_view path) {
  struct stat info = {};
  if (fstat(fd, &info) == 0) return info;
  return Unusable(path, absl::StrCat("cannot be read: ", std::strerror(errno)));
}

absl::Status CheckKindAndSize(const struct stat& info, absl::string_view path,
                              int64_t max_bytes) {
  if (!S_ISREG(info.st_mode)) {
    return Unusable(path,
                    "not a regular file; give the path of a .safetensors file");
  }
  if (info.st_size > max_bytes) {
    return Error(
        ErrorReason::kAdapterTooLarge,
        absl::StrCat(EscapeUntrusted(path), ": ", info.st_size,
                     " bytes; this server takes adapter files of up to ",
                     max_bytes, " bytes"),
        {{"limit_bytes", absl::StrCat(max_bytes)},
         {"size_bytes", absl::StrCat(info.st_size)}});
  }
  return absl::OkStatus();
}

// Bytes read into `buffer`: fewer than `size` at the end of the file only.
absl::StatusOr<size_t> ReadFully(int fd, absl::string_view path,
                                 uint8_t* buffer, size_t size,
                                 const ReadFunction& read) {
  size_t done = 0;
  while (done < size) {
    const ssize_t count = read(fd, buffer + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return Unusable(path,
                      absl::StrCat("cannot be read: ", std::strerror(errno)));
    }
    if (count == 0) break;
    done += static_cast<size_t>(count);
  }
  return done;
}

absl::Status CheckUnchanged(int fd, absl::string_view path,
                            const struct stat& before,
                            const ReadFunction& read) {
  uint8_t surplus = 0;
  GRAFT_ASSIGN_OR_RETURN(const size_t grown,
                         ReadFully(fd, path, &surplus, 1, read));
  GRAFT_ASSIGN_OR_RETURN(const struct stat after, Inspect(fd, path));
  if (grown > 0 || StampOf(after) != StampOf(before)) return Changed(path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AdapterFile> ReadWholeFile(int fd, absl::string_view path,
                                          int64_t max_bytes,
                                          const ReadFunction& read,
                                          const SizeCheck& check_size) {
  GRAFT_ASSIGN_OR_RETURN(const struct stat info, Inspect(fd, path));
  GRAFT_RETURN_IF_ERROR(CheckKindAndSize(info, path, max_bytes));
  if (check_size != nullptr) GRAFT_RETURN_IF_ERROR(check_size(info.st_size));

  const auto size = static_cast<size_t>(info.st_size);
  // Not a vector: it would write every byte once more.
  const std::shared_ptr<uint8_t[]> buffer(new (std::nothrow) uint8_t[size]);
  if (buffer == nullptr) {
    return Error(ErrorReason::kGpuOutOfMemory,
                 absl::StrCat(EscapeUntrusted(path), ": no memory for ", size,
                              " bytes; unload adapters or try again later"));
  }
  Sha256 hash;
  for (size_t done = 0; done < size;) {
    const size_t wanted = std::min(kChunkBytes, size - done);
    GRAFT_ASSIGN_OR_RETURN(
        const size_t count,
        ReadFully(fd, path, buffer.get() + done, wanted, read));
    if (count < wanted) return Changed(path);
    hash.Update(buffer.get() + done, count);
    done += count;
  }
  GRAFT_RETURN_IF_ERROR(CheckUnchanged(fd, path, info, read));
  return AdapterFile{buffer, absl::Span<const uint8_t>(buffer.get(), size),
                     hash.HexDigest(), StampOf(info)};
}

}  // namespace graft

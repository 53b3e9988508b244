#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_FILE_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_FILE_H_

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>

#include "absl/types/span.h"

namespace graft {

// By which a file is known not to have changed, without reading it.
struct FileStamp {
  int64_t device = 0;
  int64_t inode = 0;
  int64_t size = 0;
  int64_t mtime_seconds = 0;
  int64_t mtime_nanoseconds = 0;

  bool operator==(const FileStamp& other) const {
    return ToTuple() == other.ToTuple();
  }
  bool operator!=(const FileStamp& other) const { return !(*this == other); }

 private:
  std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> ToTuple() const {
    return {device, inode, size, mtime_seconds, mtime_nanoseconds};
  }
};

// The stamp of the file that fstat(2) has described.
inline FileStamp StampOf(const struct stat& status) {
  return {static_cast<int64_t>(status.st_dev),
          static_cast<int64_t>(status.st_ino), status.st_size,
          status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
}

// The whole content of one file or PEFT folder, and the digest of exactly these
// bytes.
struct AdapterFile {
  std::shared_ptr<const void> owner;  // keeps `bytes` alive
  absl::Span<const uint8_t> bytes;    // of the safetensors file
  // 64 hex digits. Of a PEFT folder: the SHA-256 of 128 characters, the hex
  // digits of adapter_config.json's digest and then those of
  // adapter_model.safetensors'. Of what AdapterStore has read as another
  // component than "unet": the SHA-256 of these 64 digits and the component's
  // name.
  std::string sha256;
  FileStamp stamp;  // of the safetensors file
  // The text of a PEFT folder's adapter_config.json; nullopt for a plain file.
  std::optional<std::string> peft_config = std::nullopt;

  int64_t size_bytes() const {
    return static_cast<int64_t>(bytes.size() +
                                (peft_config ? peft_config->size() : 0));
  }
};

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_FILE_H_

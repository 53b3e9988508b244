#include "server/safetensors/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// The header with its length in front. Padded with blanks, so that the data
// begins at a multiple of 8.
std::string MakeHeader(const std::vector<SafetensorsWriter::Entry>& entries,
                       const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const SafetensorsWriter::Entry& entry : entries) {
    uint64_t bytes = TensorDtypeSize(entry.dtype);
    for (const int64_t dimension : entry.shape) {
      bytes *= static_cast<uint64_t>(dimension);
    }
    const absl::string_view dtype = TensorDtypeName(entry.dtype);
    header[entry.name] = {
        {"dtype", std::string(dtype)},
        {"shape", entry.shape},
        {"data_offsets", {offset, offset + bytes}},
    };
    offset += bytes;
  }
  std::string json = header.dump();
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string result(8, '\0');
  for (int i = 0; i < 8; ++i) {
    result[i] = static_cast<char>(uint64_t{json.size()} >> (8 * i));
  }
  return result + json;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path, std::string temporary,
                                     int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

absl::Status SafetensorsWriter::Problem() const {
  return InvalidField("path",
                      absl::StrCat("cannot write \"", EscapeUntrusted(path_),
                                   "\": ", std::strerror(errno)));
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, const std::vector<Entry>& entries,
    const std::map<std::string, std::string>& metadata) {
  std::string temporary = path + ".XXXXXX";
  const int fd = mkostemp(temporary.data(), O_CLOEXEC);
  std::unique_ptr<SafetensorsWriter> writer(
      new SafetensorsWriter(path, fd < 0 ? "" : temporary, fd));
  if (fd < 0 || fchmod(fd, 0644) != 0) return writer->Problem();
  const std::string header = MakeHeader(entries, metadata);
  GRAFT_RETURN_IF_ERROR(writer->Append(
      {reinterpret_cast<const uint8_t*>(header.data()), header.size()}));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.path().c_str());
}

absl::Status SafetensorsWriter::Append(absl::Span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Problem();
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (fsync(fd_) != 0) return Problem();
  if (rename(temporary_.path().c_str(), path_.c_str()) != 0) return Problem();
  close(fd_);
  fd_ = -1;
  return absl::OkStatus();
}

}  // namespace graft

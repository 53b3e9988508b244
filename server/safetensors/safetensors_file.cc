#include "server/safetensors/safetensors_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/safetensors/header_reader.h"

namespace graft {
namespace {

constexpr size_t kLengthBytes = 8;

uint64_t ReadLittleEndian64(absl::Span<const uint8_t> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    value |= uint64_t{bytes[i]} << (8 * i);
  }
  return value;
}

// The JSON header of a file, every length checked against the bytes there are.
absl::StatusOr<absl::string_view> HeaderText(
    absl::Span<const uint8_t> bytes, absl::string_view file,
    const SafetensorsFile::Limits& limits) {
  if (bytes.size() < kLengthBytes) {
    return CorruptFile(file, absl::StrCat("only ", bytes.size(), " bytes"));
  }
  const uint64_t length = ReadLittleEndian64(bytes);
  if (length > limits.max_header_bytes) {
    return CorruptFile(
        file, absl::StrCat("a header of ", length, " bytes; the limit is ",
                           limits.max_header_bytes));
  }
  if (length > bytes.size() - kLengthBytes) {
    return CorruptFile(
        file, absl::StrCat("a header of ", length, " bytes in a file of ",
                           bytes.size()));
  }
  return absl::string_view(
      reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
}

// True and `size` set, unless the product of the dimensions wraps. It is signed
// as TensorView::num_elements() is: [2^62, 2, 0] wraps on the way to 0.
bool SizeInBytes(const HeaderEntry& entry, uint64_t& size) {
  int64_t elements = 1;
  for (const int64_t dimension : entry.shape) {
    if (__builtin_mul_overflow(elements, dimension, &elements)) return false;
  }
  return !__builtin_mul_overflow(static_cast<uint64_t>(elements),
                                 TensorDtypeSize(entry.dtype), &size);
}

// Checks one entry, whose range must begin at `begin`.
absl::Status CheckEntry(absl::string_view file, const std::string& tensor,
                        const HeaderEntry& entry, uint64_t begin) {
  if (entry.end < entry.begin) {
    return CorruptFile(file, tensor, "its range ends before it begins");
  }
  uint64_t size = 0;
  if (!SizeInBytes(entry, size)) {
    return CorruptFile(file, tensor, "its shape is larger than any memory");
  }
  if (size != entry.end - entry.begin) {
    return CorruptFile(
        file, tensor,
        absl::StrCat("shape and dtype need ", size, " bytes, its range has ",
                     entry.end - entry.begin));
  }
  if (entry.begin != begin) {
    return CorruptFile(
        file, tensor,
        absl::StrCat("its range begins at ", entry.begin,
                     entry.begin < begin ? ", inside another tensor's; "
                                         : ", with a gap before it; ",
                     "expected ", begin));
  }
  return absl::OkStatus();
}

// Ranges, in order, must cover `data_size` bytes without hole or overlap.
absl::Status CheckRanges(absl::string_view file,
                         const SafetensorsHeader& header, uint64_t data_size) {
  using Item = std::pair<const std::string, HeaderEntry>;
  std::vector<const Item*> by_offset;
  by_offset.reserve(header.entries.size());
  for (const Item& item : header.entries) by_offset.push_back(&item);
  std::sort(by_offset.begin(), by_offset.end(),
            [](const Item* a, const Item* b) {
              return std::pair(a->second.begin, a->second.end) <
                     std::pair(b->second.begin, b->second.end);
            });
  uint64_t covered = 0;
  for (const Item* item : by_offset) {
    GRAFT_RETURN_IF_ERROR(CheckEntry(file, item->first, item->second, covered));
    covered = item->second.end;
    if (covered > data_size) {
      return CorruptFile(file, item->first,
                         absl::StrCat("its range ends at ", covered, ", but ",
                                      data_size, " bytes of data follow"));
    }
  }
  if (covered != data_size) {
    return CorruptFile(file, absl::StrCat(data_size - covered,
                                          " bytes that belong to no tensor"));
  }
  return absl::OkStatus();
}

// A file mapped into memory.
class Mapping {
 public:
  Mapping(void* address, size_t size) : address_(address), size_(size) {}
  ~Mapping() { munmap(address_, size_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  absl::Span<const uint8_t> bytes() const {
    return {static_cast<const uint8_t*>(address_), size_};
  }

 private:
  void* const address_;
  const size_t size_;
};

absl::Status UnusableFile(const std::string& path, absl::string_view problem) {
  return Error(ErrorReason::kModelUnsupported,
               absl::StrCat(path, ": ", problem, "; check the model folder"));
}

absl::Status ErrnoStatus(const std::string& path, absl::string_view call) {
  const int error = errno;
  if (error == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat(path, ": no such file; check the model folder"));
  }
  return UnusableFile(path, absl::StrCat(call, ": ", std::strerror(error)));
}

absl::StatusOr<std::shared_ptr<const Mapping>> MapDescriptor(
    int descriptor, const std::string& path) {
  struct stat info = {};
  if (fstat(descriptor, &info) != 0) return ErrnoStatus(path, "fstat");
  if (!S_ISREG(info.st_mode)) return UnusableFile(path, "not a regular file");
  if (info.st_size == 0) return UnusableFile(path, "the file is empty");
  const auto size = static_cast<size_t>(info.st_size);
  void* const address =
      mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (address == MAP_FAILED) return ErrnoStatus(path, "mmap");
  return std::make_shared<const Mapping>(address, size);
}

absl::StatusOr<std::shared_ptr<const Mapping>> MapFile(
    const std::string& path) {
  // O_NONBLOCK: a FIFO in place of the file must not block start-up.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return ErrnoStatus(path, "open");
  auto mapping = MapDescriptor(descriptor, path);
  close(descriptor);
  return mapping;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(
    std::shared_ptr<const void> owner, absl::Span<const uint8_t> bytes,
    absl::string_view name, const Limits& limits) {
  GRAFT_ASSIGN_OR_RETURN(const absl::string_view text,
                         HeaderText(bytes, name, limits));
  GRAFT_ASSIGN_OR_RETURN(SafetensorsHeader header,
                         ReadSafetensorsHeader(text, name));
  const absl::Span<const uint8_t> data =
      bytes.subspan(kLengthBytes + text.size());
  GRAFT_RETURN_IF_ERROR(CheckRanges(name, header, data.size()));

  SafetensorsFile file;
  file.owner_ = std::move(owner);
  file.metadata_ = std::move(header.metadata);
  for (auto& [tensor, entry] : header.entries) {
    file.tensors_.emplace_hint(
        file.tensors_.end(), tensor,
        TensorView{entry.dtype, std::move(entry.shape),
                   data.subspan(entry.begin, entry.end - entry.begin)});
  }
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Map(const std::string& path,
                                                     const Limits& limits) {
  GRAFT_ASSIGN_OR_RETURN(const std::shared_ptr<const Mapping> mapping,
                         MapFile(path));
  absl::StatusOr<SafetensorsFile> file =
      Parse(mapping, mapping->bytes(), path, limits);
  // A base file is the operator's, not an adapter: another reason, and "tensor"
  // stays in its metadata.
  if (!file.ok()) {
    return Error(ErrorReason::kModelUnsupported, file.status().message(),
                 GetErrorMetadata(file.status()));
  }
  return file;
}

}  // namespace graft

#include "server/adapters/adapter_source.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/adapters/adapter_config.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "server/common/utf8.h"

namespace graft {
namespace {

constexpr size_t kMaxPathBytes = 4095;  // PATH_MAX less the final zero
constexpr absl::string_view kSuffix = ".safetensors";
constexpr absl::string_view kPeftConfig = "adapter_config.json";
constexpr absl::string_view kPeftWeights = "adapter_model.safetensors";
constexpr absl::string_view kPickleSuffixes[] = {".pt",  ".pth", ".ckpt",
                                                 ".bin", ".pkl", ".pickle"};

// True if C0 or C1 controls or DEL are among the characters of `text`, which is
// valid UTF-8.
bool HasControls(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte < 0x20 || byte == 0x7F) return true;
    if (byte == 0xC2 && static_cast<uint8_t>(text[i + 1]) < 0xA0) return true;
  }
  return false;
}

// Told from the name alone, so that nothing is learnt about files that exist.
absl::Status CheckNoPickle(absl::string_view path) {
  for (const absl::string_view suffix : kPickleSuffixes) {
    if (absl::EndsWithIgnoreCase(path, suffix)) {
      return Error(ErrorReason::kAdapterCorrupt,
                   absl::StrCat(EscapeUntrusted(path), ": ", suffix,
                                " files are pickles, and pickles execute code "
                                "when read; convert to safetensors"));
    }
  }
  return absl::OkStatus();
}

// The same for a missing file as for one of another kind.
absl::Status NoAdapter(absl::string_view path) {
  return Error(ErrorReason::kAdapterCorrupt,
               absl::StrCat(EscapeUntrusted(path),
                            ": not a .safetensors file, and no PEFT folder; "
                            "only those can be loaded"));
}

bool IsDirectory(int directory, absl::string_view path) {
  const FileDescriptor entry = OpenBeneath(directory, std::string(path));
  struct stat status = {};
  return entry.valid() && fstat(entry.get(), &status) == 0 &&
         S_ISDIR(status.st_mode);
}

// The error for errno after opening `path` failed.
absl::Status OpenError(absl::string_view path, int error) {
  const std::string name = EscapeUntrusted(path);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return Error(ErrorReason::kAdapterNotFound,
                   absl::StrCat(name, ": no such file below --adapter_dir"),
                   {{"resource_type", "AdapterFile"}, {"resource_name", name}});
    case EXDEV:
    case ELOOP:
      return Error(ErrorReason::kPathNotAllowed,
                   absl::StrCat(name,
                                ": a link in it leads out of --adapter_dir; "
                                "put the file itself below it"));
    case EACCES:
    case EPERM:
      return Error(ErrorReason::kPathNotAllowed,
                   absl::StrCat(name,
                                ": the server may not read it; check the "
                                "permissions of file and folders"));
    case ENAMETOOLONG:
      return InvalidField("path",
                          "a name in it is too long; use a shorter one");
    case ENXIO:  // a socket, or a device without hardware
    case ENODEV:
      return Error(ErrorReason::kAdapterCorrupt,
                   absl::StrCat(name,
                                ": not a regular file; give the path of "
                                "a .safetensors file"));
    default:
      return Error(
          ErrorReason::kInternal,
          absl::StrCat(name, ": cannot be opened: ", std::strerror(error)));
  }
}

absl::StatusOr<FileStamp> StampBeneath(int directory, absl::string_view path) {
  const FileDescriptor file = OpenBeneath(directory, std::string(path));
  struct stat status = {};
  if (!file.valid() || fstat(file.get(), &status) != 0) {
    return OpenError(path, errno);
  }
  return StampOf(status);
}

// Refused for what it says, whether or not it would come back in.
absl::Status OutsideError(absl::string_view path, absl::string_view problem) {
  return Error(ErrorReason::kPathNotAllowed,
               absl::StrCat("path: \"", EscapeUntrusted(path), "\" ", problem,
                            "; give it relative to --adapter_dir"));
}

}  // namespace

AdapterSource::AdapterSource(Options options, ReadFunction read)
    : options_(std::move(options)), read_(std::move(read)) {}

absl::Status AdapterSource::CheckPath(absl::string_view path) {
  if (path.empty()) {
    return InvalidField("path", "empty; give a file below --adapter_dir");
  }
  if (path.size() > kMaxPathBytes) {
    return InvalidField("path", absl::StrCat("longer than ", kMaxPathBytes,
                                             " bytes; use a shorter one"));
  }
  if (!IsValidUtf8(path) || HasControls(path)) {
    return InvalidField("path",
                        "not UTF-8 text without control characters; rename "
                        "the file");
  }
  if (path[0] == '/') return OutsideError(path, "is absolute");
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part == "..") return OutsideError(path, "has a \"..\"");
  }
  return absl::OkStatus();
}

absl::StatusOr<FileDescriptor> AdapterSource::OpenDirectory(
    absl::string_view path) const {
  GRAFT_RETURN_IF_ERROR(CheckPath(path));
  if (options_.directory.empty()) {
    return Error(ErrorReason::kAdapterDirNotSet,
                 "this server has no adapter directory; start graftd with "
                 "--adapter_dir");
  }
  FileDescriptor directory(
      open(options_.directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return OpenError(path, errno);
  return directory;
}

absl::Status AdapterSource::CheckDirectory() const {
  return OpenDirectory(".").status();
}

absl::StatusOr<FileStamp> AdapterSource::Stamp(absl::string_view path) const {
  GRAFT_ASSIGN_OR_RETURN(const FileDescriptor directory, OpenDirectory(path));
  return StampBeneath(directory.get(), path);
}

absl::StatusOr<AdapterFile> AdapterSource::Read(
    absl::string_view path, const SizeCheck& check_size) const {
  GRAFT_ASSIGN_OR_RETURN(const FileDescriptor directory, OpenDirectory(path));
  GRAFT_RETURN_IF_ERROR(CheckNoPickle(path));
  if (absl::EndsWith(path, kSuffix)) {
    return ReadFile(directory.get(), path, options_.max_file_bytes, check_size);
  }
  if (IsDirectory(directory.get(), path)) {
    return ReadPeftFolder(directory.get(), path, check_size);
  }
  return NoAdapter(path);
}

absl::StatusOr<AdapterFile> AdapterSource::ReadFile(
    int directory, absl::string_view path, int64_t max_bytes,
    const SizeCheck& check_size) const {
  const FileDescriptor file = OpenBeneath(directory, std::string(path));
  if (!file.valid()) return OpenError(path, errno);
  return ReadWholeFile(file.get(), path, max_bytes, read_, check_size);
}

absl::StatusOr<AdapterFile> AdapterSource::ReadPeftFolder(
    int directory, absl::string_view path, const SizeCheck& check_size) const {
  const auto path_of = [path](absl::string_view name) {
    return absl::StrCat(absl::StripSuffix(path, "/"), "/", name);
  };
  const auto read = [&](absl::string_view name, int64_t max_bytes,
                        const SizeCheck& check) -> absl::StatusOr<AdapterFile> {
    auto file = ReadFile(directory, path_of(name), max_bytes, check);
    if (GetErrorReason(file.status()) != ErrorReason::kAdapterNotFound) {
      return file;
    }
    return Error(
        ErrorReason::kAdapterCorrupt,
        absl::StrCat(EscapeUntrusted(path),
                     ": no PEFT folder, which must hold ", kPeftConfig, " and ",
                     kPeftWeights, "; ", name, " is missing"));
  };
  GRAFT_ASSIGN_OR_RETURN(const AdapterFile config,
                         read(kPeftConfig, AdapterConfig::kMaxBytes, nullptr));
  const auto check_folder = [&](int64_t bytes) -> absl::Status {
    if (check_size == nullptr) return absl::OkStatus();
    return check_size(bytes + static_cast<int64_t>(config.bytes.size()));
  };
  GRAFT_ASSIGN_OR_RETURN(
      AdapterFile folder,
      read(kPeftWeights, options_.max_file_bytes, check_folder));
  // The configuration of one version with the weights of another would be an
  // adapter that nobody has made.
  const auto stamp = StampBeneath(directory, path_of(kPeftConfig));
  if (!stamp.ok() || *stamp != config.stamp) {
    return Error(ErrorReason::kAdapterCorrupt,
                 absl::StrCat(EscapeUntrusted(path), ": ", kPeftConfig,
                              " changed while the folder was read; load it "
                              "again when it is complete"));
  }
  folder.peft_config = std::string(config.bytes.begin(), config.bytes.end());
  Sha256 digest;
  digest.Update(config.sha256);
  digest.Update(folder.sha256);
  folder.sha256 = digest.HexDigest();
  return folder;
}

}  // namespace graft

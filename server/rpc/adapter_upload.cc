#include "server/rpc/adapter_upload.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/status_macros.h"
#include "server/rpc/file_renaming.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/rpc_context.h"

namespace graft {
namespace {

constexpr absl::string_view kExtension = ".safetensors";
constexpr absl::string_view kTemporaryPrefix = ".upload-";

// Of errno.
ErrorReason DiskErrorReason(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return ErrorReason::kQuota;
    case EROFS:
    case EACCES:
    case EPERM:
      return ErrorReason::kAdapterDirReadOnly;
    default:
      return ErrorReason::kInternal;
  }
}

absl::Status DiskError(absl::string_view what) {
  const int error = errno;
  return Error(DiskErrorReason(error),
               absl::StrCat(what, ": ", std::strerror(error)));
}

// Removes the temporary file of an upload unless that is running, which a lock
// on the file tells.
void RemoveLeftover(const std::filesystem::path& path) {
  const FileDescriptor file(
      open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.valid() && flock(file.get(), LOCK_EX | LOCK_NB) != 0 &&
      errno == EWOULDBLOCK) {
    return;
  }
  std::error_code error;
  std::filesystem::remove(path, error);  // with the lock held: see MakeFile
}

absl::Status CheckSize(uint64_t size, int64_t max_bytes) {
  if (size == 0) {
    return InvalidField("header.size_bytes", "must be the size of the file");
  }
  if (size <= static_cast<uint64_t>(max_bytes)) return absl::OkStatus();
  return Error(
      ErrorReason::kAdapterTooLarge,
      absl::StrCat("the file has ", size, " bytes; at most ", max_bytes,
                   " are allowed (--max_adapter_file_bytes)"),
      {{"limit_bytes", absl::StrCat(max_bytes)}});
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdapterUpload>> AdapterUpload::Begin(
    const std::string& directory, int64_t max_bytes,
    const v1::UploadAdapterHeader& header) {
  GRAFT_RETURN_IF_ERROR(ValidateAdapterName(header.name(), "header.name"));
  GRAFT_ASSIGN_OR_RETURN(std::string sha256,
                         ValidateSha256(header.sha256(), "header.sha256"));
  if (sha256.empty()) {
    return InvalidField("header.sha256", "must be the SHA-256 of the file");
  }
  GRAFT_RETURN_IF_ERROR(CheckSize(header.size_bytes(), max_bytes));
  if (directory.empty()) {
    return Error(ErrorReason::kAdapterDirNotSet,
                 "graftd was started without --adapter_dir, so there is no "
                 "place for adapters");
  }
  FileDescriptor folder(
      open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return DiskError("cannot open --adapter_dir");
  std::unique_ptr<AdapterUpload> upload(
      new AdapterUpload(std::move(folder), header, std::move(sha256)));
  GRAFT_RETURN_IF_ERROR(upload->MakeFile());
  return upload;
}

void AdapterUpload::RemoveLeftovers(const std::string& directory) {
  std::error_code error;  // a directory that cannot be read has none
  for (const auto& entry :
       std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, kTemporaryPrefix) &&
        absl::EndsWith(name, kExtension)) {
      RemoveLeftover(entry.path());
    }
  }
}

AdapterUpload::AdapterUpload(FileDescriptor directory,
                             const v1::UploadAdapterHeader& header,
                             std::string sha256)
    : directory_(std::move(directory)),
      header_(header),
      sha256_(std::move(sha256)),
      temporary_name_(
          absl::StrCat(kTemporaryPrefix, NewRequestId(), kExtension)) {}

AdapterUpload::~AdapterUpload() {
  // Not there any more if it got its name; or the file that it replaces.
  unlinkat(directory_.get(), temporary_name_.c_str(), 0);
}

absl::Status AdapterUpload::MakeFile() {
  struct stat info {};
  do {
    file_ =
        FileDescriptor(openat(directory_.get(), temporary_name_.c_str(),
                              O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!file_.valid()) return DiskError("cannot write to --adapter_dir");
    // Says that it is no leftover; where files cannot be locked, it goes
    // without. It waits for nothing but another process' RemoveLeftover, which
    // may have been quicker.
    flock(file_.get(), LOCK_EX);
    if (fstat(file_.get(), &info) != 0) {
      return DiskError("cannot write to --adapter_dir");
    }
  } while (info.st_nlink == 0);
  return absl::OkStatus();
}

absl::Status AdapterUpload::Append(absl::string_view data) {
  if (data.size() > header_.size_bytes() - written_) {
    return Error(ErrorReason::kAdapterCorrupt,
                 absl::StrCat("there are more bytes than the announced ",
                              header_.size_bytes()));
  }
  hash_.Update(data);
  written_ += data.size();
  while (!data.empty()) {
    const ssize_t size = write(file_.get(), data.data(), data.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return DiskError("cannot write to --adapter_dir");
    data.remove_prefix(static_cast<size_t>(size));
  }
  return absl::OkStatus();
}

absl::StatusOr<AdapterStore::LoadResult> AdapterUpload::Commit(
    AdapterStore& store, absl::Duration lock_wait) {
  GRAFT_RETURN_IF_ERROR(CheckComplete());
  AdapterStore::LoadRequest check = LoadRequestFor(temporary_name_);
  check.validate_only = true;
  GRAFT_RETURN_IF_ERROR(WithOwnName(store.Load(check).status()));
  LockDirectory(lock_wait);
  GRAFT_ASSIGN_OR_RETURN(const Placed placed, Place(store));
  absl::StatusOr<AdapterStore::LoadResult> loaded = LoadPlaced(store);
  if (!loaded.ok()) TakeBack(placed);
  return loaded;
}

void AdapterUpload::LockDirectory(absl::Duration wait) const {
  constexpr absl::Duration kPause = absl::Milliseconds(20);
  absl::Duration waited;  // flock has no timeout
  while (flock(directory_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return;  // files cannot be locked here
    if (waited >= wait) {
      GRAFT_LOG(
          kWarning,
          "another process keeps --adapter_dir locked; an upload goes on "
          "without the lock",
          {{"file", own_name()}, {"waited", absl::FormatDuration(waited)}});
      return;
    }
    absl::SleepFor(kPause);
    waited += kPause;
  }
}

absl::StatusOr<AdapterStore::LoadResult> AdapterUpload::LoadPlaced(
    AdapterStore& store) const {
  GRAFT_RETURN_IF_ERROR(Sync());
  return store.Load(LoadRequestFor(own_name()));
}

absl::Status AdapterUpload::CheckComplete() {
  if (written_ != header_.size_bytes()) {
    return Error(ErrorReason::kAdapterCorrupt,
                 absl::StrCat("there are ", written_, " bytes instead of the ",
                              "announced ", header_.size_bytes()));
  }
  const std::string sha256 = hash_.HexDigest();
  if (sha256 != sha256_) {
    return Error(
        ErrorReason::kAdapterCorrupt,
        absl::StrCat("the SHA-256 of the bytes is ", sha256,
                     ", not the announced ", sha256_),
        {{"resource_type", "Adapter"}, {"resource_name", header_.name()}});
  }
  // On the disk before it has its name: a crash leaves no half file behind.
  if (fsync(file_.get()) != 0) return DiskError("cannot write to the disk");
  return absl::OkStatus();
}

absl::StatusOr<AdapterUpload::Placed> AdapterUpload::Place(
    AdapterStore& store) {
  struct stat former {};
  const bool exists = fstatat(directory_.get(), own_name().c_str(), &former,
                              AT_SYMLINK_NOFOLLOW) == 0;
  if (exists && S_ISDIR(former.st_mode)) {
    return Conflict("is a folder; choose another name");
  }
  if (!exists || !header_.allow_replace()) return PlaceUnderNewName(store);
  // It may have to come back, and is no leftover until then.
  former_ =
      FileDescriptor(openat(directory_.get(), own_name().c_str(),
                            O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (former_.valid()) flock(former_.get(), LOCK_SH | LOCK_NB);
  const std::string spare =
      absl::StrCat(kTemporaryPrefix, NewRequestId(), kExtension);
  if (ExchangeNames(directory_.get(), temporary_name_, own_name(), spare)) {
    return Placed::kInExchange;
  }
  return DiskError("cannot name the uploaded file");
}

absl::StatusOr<AdapterUpload::Placed> AdapterUpload::PlaceUnderNewName(
    AdapterStore& store) {
  if (RenameToFreeName(directory_.get(), temporary_name_, own_name())) {
    return Placed::kUnderNewName;
  }
  if (errno != EEXIST) return DiskError("cannot name the uploaded file");
  AdapterStore::LoadRequest check = LoadRequestFor(own_name());
  check.validate_only = true;
  const absl::Status same = store.Load(check).status();
  if (same.ok()) return Placed::kAlreadyThere;
  if (GetErrorReason(same) != ErrorReason::kAdapterVersionMismatch) return same;
  return Conflict("has other content; allow_replace replaces it");
}

void AdapterUpload::TakeBack(Placed placed) {
  // Who has not got the lock, or is no upload, may have replaced the file.
  if (!HasOwnName()) return;
  bool done = true;
  switch (placed) {
    case Placed::kAlreadyThere:
      return;
    case Placed::kUnderNewName:
      done = unlinkat(directory_.get(), own_name().c_str(), 0) == 0;
      break;
    case Placed::kInExchange:
      done = renameat(directory_.get(), temporary_name_.c_str(),
                      directory_.get(), own_name().c_str()) == 0;
      break;
  }
  const absl::Status status =
      done ? Sync() : DiskError("cannot take an uploaded file back");
  if (!status.ok()) {
    GRAFT_LOG(
        kError, "an uploaded adapter's file may have stayed",
        {{"file", own_name()}, {"message", std::string(status.message())}});
  }
}

bool AdapterUpload::HasOwnName() const {
  struct stat own {};
  struct stat named {};
  return fstat(file_.get(), &own) == 0 &&
         fstatat(directory_.get(), own_name().c_str(), &named,
                 AT_SYMLINK_NOFOLLOW) == 0 &&
         own.st_dev == named.st_dev && own.st_ino == named.st_ino;
}

absl::Status AdapterUpload::Sync() const {
  return fsync(directory_.get()) == 0 ? absl::OkStatus()
                                      : DiskError("cannot write to the disk");
}

absl::Status AdapterUpload::Conflict(absl::string_view why) const {
  return Error(
      ErrorReason::kAdapterConflict,
      absl::StrCat("the file ", own_name(), " of --adapter_dir ", why),
      {{"resource_type", "Adapter"}, {"resource_name", header_.name()}});
}

std::string AdapterUpload::own_name() const {
  return absl::StrCat(header_.name(), kExtension);
}

absl::Status AdapterUpload::WithOwnName(const absl::Status& status) const {
  absl::Status named(
      status.code(),
      absl::StrReplaceAll(status.message(), {{temporary_name_, own_name()}}));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    named.SetPayload(url, payload);
  });
  return named;
}

AdapterStore::LoadRequest AdapterUpload::LoadRequestFor(
    const std::string& path) const {
  return {.path = path,
          .name = header_.name(),
          .expected_sha256 = sha256_,
          .allow_partial = header_.allow_partial(),
          .allow_replace = header_.allow_replace()};
}

}  // namespace graft

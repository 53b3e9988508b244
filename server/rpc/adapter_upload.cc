#include "server/rpc/adapter_upload.h"

#include <fcntl.h>
#include <stdio.h>
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
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/rpc_context.h"

namespace graft {
namespace {

constexpr absl::string_view kExtension = ".safetensors";
constexpr absl::string_view kTemporaryPrefix = ".upload-";

// For the operator's eyes: disk full, read-only and the like.
absl::Status DiskError(absl::string_view what) {
  return Error(ErrorReason::kInternal,
               absl::StrCat(what, ": ", std::strerror(errno)));
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
      {{"limit", absl::StrCat(max_bytes)}});
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
  if (!upload->file_.valid()) return DiskError("cannot write to --adapter_dir");
  return upload;
}

void AdapterUpload::RemoveLeftovers(const std::string& directory) {
  std::error_code error;  // a directory that cannot be read has none
  for (const auto& entry :
       std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (absl::StartsWith(name, kTemporaryPrefix) &&
        absl::EndsWith(name, kExtension)) {
      std::filesystem::remove(entry.path(), error);
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
          absl::StrCat(kTemporaryPrefix, NewRequestId(), kExtension)),
      file_(openat(directory_.get(), temporary_name_.c_str(),
                   O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644)) {}

AdapterUpload::~AdapterUpload() {
  // Not there any more if it got its name.
  unlinkat(directory_.get(), temporary_name_.c_str(), 0);
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
    AdapterStore& store) {
  GRAFT_RETURN_IF_ERROR(CheckComplete());
  AdapterStore::LoadRequest check = LoadRequestFor(temporary_name_);
  check.validate_only = true;
  GRAFT_RETURN_IF_ERROR(WithOwnName(store.Load(check).status()));
  GRAFT_RETURN_IF_ERROR(Rename(store));
  return store.Load(LoadRequestFor(absl::StrCat(header_.name(), kExtension)));
}

absl::Status AdapterUpload::CheckComplete() {
  if (written_ != header_.size_bytes()) {
    return Error(ErrorReason::kAdapterCorrupt,
                 absl::StrCat("there are ", written_, " bytes instead of the ",
                              "announced ", header_.size_bytes()));
  }
  const std::string sha256 = hash_.HexDigest();
  if (sha256 != sha256_) {
    return Error(ErrorReason::kAdapterVersionMismatch,
                 absl::StrCat("the SHA-256 of the bytes is ", sha256,
                              ", not the announced ", sha256_));
  }
  // On the disk before it has its name: a crash leaves no half file behind.
  if (fsync(file_.get()) != 0) return DiskError("cannot write to the disk");
  return absl::OkStatus();
}

absl::Status AdapterUpload::Rename(AdapterStore& store) {
  const std::string name = absl::StrCat(header_.name(), kExtension);
  const unsigned flags = header_.allow_replace() ? 0 : RENAME_NOREPLACE;
  if (renameat2(directory_.get(), temporary_name_.c_str(), directory_.get(),
                name.c_str(), flags) == 0) {
    return fsync(directory_.get()) == 0 ? absl::OkStatus()
                                        : DiskError("cannot write to the disk");
  }
  if (errno != EEXIST) return DiskError("cannot name the uploaded file");
  AdapterStore::LoadRequest check = LoadRequestFor(name);
  check.validate_only = true;
  const absl::Status same = store.Load(check).status();
  if (GetErrorReason(same) != ErrorReason::kAdapterVersionMismatch) return same;
  return Error(
      ErrorReason::kAdapterConflict,
      absl::StrCat("--adapter_dir has a file ", name,
                   " with other content; allow_replace replaces it"),
      {{"resource_type", "Adapter"}, {"resource_name", header_.name()}});
}

absl::Status AdapterUpload::WithOwnName(const absl::Status& status) const {
  absl::Status named(
      status.code(),
      absl::StrReplaceAll(
          status.message(),
          {{temporary_name_, absl::StrCat(header_.name(), kExtension)}}));
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

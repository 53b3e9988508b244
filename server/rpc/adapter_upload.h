#ifndef GRAFT_SERVER_RPC_ADAPTER_UPLOAD_H_
#define GRAFT_SERVER_RPC_ADAPTER_UPLOAD_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "graft/v1/adapter.pb.h"
#include "server/adapters/adapter_store.h"
#include "server/adapters/open_beneath.h"
#include "server/common/sha256.h"

namespace graft {

// An adapter's file on its way from a client to the adapter directory. It is
// written under another name, and gets its own when it is complete, on the disk
// and found good; until then it vanishes with this object. What was there
// before is there again if it cannot be loaded. All calls block on the disk.
// Thread-compatible.
class AdapterUpload {
 public:
  // Checks the header and makes the temporary file. INVALID_FIELD;
  // ADAPTER_DIR_NOT_SET if `directory` is empty; ADAPTER_TOO_LARGE above
  // `max_bytes`; ADAPTER_DIR_READ_ONLY if the directory cannot be written to,
  // QUOTA if there is no room, INTERNAL if the disk fails.
  static absl::StatusOr<std::unique_ptr<AdapterUpload>> Begin(
      const std::string& directory, int64_t max_bytes,
      const v1::UploadAdapterHeader& header);

  // Removes the temporary files that a killed server left in `directory`, but
  // not those of uploads that are running, here or in another process.
  static void RemoveLeftovers(const std::string& directory);

  ~AdapterUpload();
  AdapterUpload(const AdapterUpload&) = delete;
  AdapterUpload& operator=(const AdapterUpload&) = delete;

  // The next bytes. ADAPTER_CORRUPT past the announced size; QUOTA or INTERNAL
  // if the disk does not take them.
  absl::Status Append(absl::string_view data);

  // All bytes are there: checks them, gives the file its name and loads it.
  // ADAPTER_CORRUPT if they are not what was announced; ADAPTER_CONFLICT if the
  // name is taken by other content, loaded or not, unless allow_replace; the
  // errors of AdapterStore::Load. After an error the directory is as it was,
  // but for what others have given the name meanwhile, which stays.
  //
  // One at a time in a process. Commits of other processes to this directory
  // are waited for, but not longer than `lock_wait`: one that was stopped stops
  // nobody else. Without the lock, as on NFS, which has none for directories,
  // neither undoes what the other has put there; but if both replace one file
  // and fail, the first one's may be what stays.
  absl::StatusOr<AdapterStore::LoadResult> Commit(AdapterStore& store,
                                                  absl::Duration lock_wait);

 private:
  // What became of the temporary file, and how to take it back.
  enum class Placed {
    kAlreadyThere,  // the same content had the name
    kUnderNewName,
    kInExchange,  // the temporary name has the former file
  };

  AdapterUpload(FileDescriptor directory, const v1::UploadAdapterHeader& header,
                std::string sha256);

  // Makes the temporary file, which nobody else's RemoveLeftovers takes.
  absl::Status MakeFile();

  absl::Status CheckComplete();

  // Keeps other processes' commits out until this object goes, if they end
  // within `wait`.
  void LockDirectory(absl::Duration wait) const;

  // Gives the temporary file its own name.
  absl::StatusOr<Placed> Place(AdapterStore& store);
  absl::StatusOr<Placed> PlaceUnderNewName(AdapterStore& store);
  absl::StatusOr<AdapterStore::LoadResult> LoadPlaced(
      AdapterStore& store) const;
  void TakeBack(Placed placed);

  // Whether the file is what has the name.
  bool HasOwnName() const;

  // Has the directory on the disk.
  absl::Status Sync() const;

  absl::Status Conflict(absl::string_view why) const;

  std::string own_name() const;

  // An error as if the file had its own name already.
  absl::Status WithOwnName(const absl::Status& status) const;

  AdapterStore::LoadRequest LoadRequestFor(const std::string& path) const;

  const FileDescriptor directory_;  // locked, once there is a commit
  const v1::UploadAdapterHeader header_;
  const std::string sha256_;          // announced, lower case
  const std::string temporary_name_;  // in directory_; what is there goes
  FileDescriptor file_;               // locked, against RemoveLeftovers
  FileDescriptor former_;             // in exchange, the same
  Sha256 hash_;
  uint64_t written_ = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_ADAPTER_UPLOAD_H_

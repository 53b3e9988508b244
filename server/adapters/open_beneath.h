#ifndef GRAFT_SERVER_ADAPTERS_OPEN_BENEATH_H_
#define GRAFT_SERVER_ADAPTERS_OPEN_BENEATH_H_

#include <string>
#include <utility>

// Opening a file below a directory so that no name and no link leads outside.
namespace graft {

// A file descriptor that is closed with its owner. Move-only.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }

  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// Opens `path`, relative to the directory `directory`, for reading, without
// waiting for anything (a FIFO's writer). Links are followed as long as they
// stay below the directory; where the kernel has no openat2, or a sandbox
// forbids it, links are not followed at all. An invalid descriptor with errno
// on error: EXDEV or ELOOP when a link leads outside or may not be followed.
// REQUIRES: `path` is relative and has no "..".
FileDescriptor OpenBeneath(int directory, const std::string& path);

// The two ways of OpenBeneath, for tests.
FileDescriptor OpenBeneathByKernel(int directory, const std::string& path);
FileDescriptor OpenBeneathByComponent(int directory, const std::string& path);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_OPEN_BENEATH_H_

#include "server/adapters/open_beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_split.h"

namespace graft {
namespace {

constexpr int kFileFlags = O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;

// `open` again while a signal interrupts it.
template <typename F>
int RetryOnInterrupt(F open) {
  int fd = -1;
  do {
    fd = open();
  } while (fd < 0 && errno == EINTR);
  return fd;
}

FileDescriptor OpenWithoutLinks(int directory, const std::string& name) {
  return FileDescriptor(RetryOnInterrupt([&] {
    return openat(directory, name.c_str(), kFileFlags | O_NOFOLLOW);
  }));
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (!valid()) return;
  const int saved = errno;  // so that it can be read after a return
  close(fd_);
  errno = saved;
}

FileDescriptor OpenBeneath(int directory, const std::string& path) {
  FileDescriptor file = OpenBeneathByKernel(directory, path);
  // EPERM is what sandboxes answer for calls that they do not know.
  if (!file.valid() && (errno == ENOSYS || errno == EPERM)) {
    return OpenBeneathByComponent(directory, path);
  }
  return file;
}

FileDescriptor OpenBeneathByKernel(int directory, const std::string& path) {
  open_how how = {};
  how.flags = kFileFlags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  // EAGAIN: a rename elsewhere made the kernel unsure of a "..".
  constexpr int kAttempts = 16;
  int fd = -1;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    fd = RetryOnInterrupt([&] {
      return static_cast<int>(
          syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how)));
    });
    if (fd >= 0 || errno != EAGAIN) break;
  }
  return FileDescriptor(fd);
}

FileDescriptor OpenBeneathByComponent(int directory, const std::string& path) {
  const std::vector<std::string> names =
      absl::StrSplit(path, '/', absl::SkipEmpty());
  if (names.empty()) {
    errno = ENOENT;
    return FileDescriptor();
  }
  // Without O_DIRECTORY, with which a link would be ENOTDIR: the user is to
  // learn that it is a link. A plain file in the way fails at the next name.
  FileDescriptor opened = OpenWithoutLinks(directory, names[0]);
  for (size_t i = 1; i < names.size() && opened.valid(); ++i) {
    opened = OpenWithoutLinks(opened.get(), names[i]);
  }
  return opened;
}

}  // namespace graft

#include "server/rpc/connection_acceptor.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/log.h"

namespace graft {
namespace {

// Descriptors left for files that are read, and for gRPC's own.
constexpr int kReservedDescriptors = 32;

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

bool IsOutOfDescriptors(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS ||
         error == ENOMEM;
}

}  // namespace

ConnectionAcceptor::ConnectionAcceptor(ListenSocket socket, int max_connections,
                                       Handler handler)
    : socket_(std::move(socket)),
      max_connections_(static_cast<size_t>(max_connections)),
      handler_(std::move(handler)),
      stop_fd_(eventfd(0, EFD_CLOEXEC)),
      spare_fd_(OpenSpare()) {
  // The loop polls; accept() must not block when a client has left again.
  fcntl(socket_.fd(), F_SETFL, fcntl(socket_.fd(), F_GETFL) | O_NONBLOCK);
  thread_ = std::thread([this] { Run(); });
}

ConnectionAcceptor::~ConnectionAcceptor() {
  eventfd_write(stop_fd_, 1);
  thread_.join();
  close(stop_fd_);
  if (spare_fd_ >= 0) close(spare_fd_);
}

void ConnectionAcceptor::Run() {
  pollfd polled[] = {{socket_.fd(), POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    if (poll(polled, std::size(polled), -1) < 0) continue;  // a signal
    if (polled[1].revents != 0) return;
    if (polled[0].revents != 0) AcceptOne();
  }
}

void ConnectionAcceptor::AcceptOne() {
  const int fd =
      accept4(socket_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd < 0) {
    if (IsOutOfDescriptors(errno)) RefuseOne();
    return;  // else the client left before it was accepted
  }
  struct stat status {};
  const bool accepted = fstat(fd, &status) == 0 && HasRoom();
  NoteRefusing(!accepted);
  if (!accepted) {
    close(fd);
    return;
  }
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  connections_.push_back({fd, status.st_ino});
  handler_(fd);
}

void ConnectionAcceptor::RefuseOne() {
  NoteRefusing(true);
  if (spare_fd_ >= 0) close(spare_fd_);
  const int fd = accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC);
  if (fd >= 0) close(fd);
  spare_fd_ = OpenSpare();
}

bool ConnectionAcceptor::HasRoom() {
  if (connections_.size() < max_connections_) return true;
  connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                    [](const Connection& connection) {
                                      struct stat status {};
                                      return fstat(connection.fd, &status) !=
                                                 0 ||
                                             status.st_ino != connection.inode;
                                    }),
                     connections_.end());
  return connections_.size() < max_connections_;
}

void ConnectionAcceptor::NoteRefusing(bool refusing) {
  if (std::exchange(refusing_, refusing) == refusing) return;
  GRAFT_LOG(kWarning,
            refusing ? "refusing connections: too many are open"
                     : "accepting connections again",
            {{"open", absl::StrCat(connections_.size())}});
}

int MaxConnectionsForDescriptors(int limit) {
  std::error_code error;
  const std::filesystem::directory_iterator open_now("/proc/self/fd", error);
  const int used =
      error ? 0
            : static_cast<int>(std::distance(begin(open_now), end(open_now)));
  return std::max(1, limit - used - kReservedDescriptors);
}

}  // namespace graft

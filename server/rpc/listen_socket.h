#ifndef GRAFT_SERVER_RPC_LISTEN_SOCKET_H_
#define GRAFT_SERVER_RPC_LISTEN_SOCKET_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

// A TCP socket that listens. Nobody else can have its port: unlike gRPC's own
// listeners it does not share it with a second server (SO_REUSEPORT), which
// would silently take half of the clients. Move-only; closes at the end.
class ListenSocket {
 public:
  // Binds to "HOST:PORT" ("[::1]:50051" for IPv6; port 0: any free one) and
  // listens. INVALID_FIELD (field "listen") if `address` is malformed, cannot
  // be resolved or bound; the message says "in use" if somebody has the port.
  static absl::StatusOr<ListenSocket> Bind(absl::string_view address);

  ~ListenSocket();
  ListenSocket(ListenSocket&& other) noexcept;
  ListenSocket& operator=(ListenSocket&&) = delete;

  int fd() const { return fd_; }

  // Where clients can connect: the host as it was given, with the real port.
  const std::string& address() const { return address_; }

 private:
  ListenSocket(int fd, std::string address);

  int fd_;
  std::string address_;
};

// Whether only this machine can connect to "HOST:PORT": every address that HOST
// resolves to is a loopback one. INVALID_FIELD as for Bind.
absl::StatusOr<bool> IsLoopbackAddress(absl::string_view address);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_LISTEN_SOCKET_H_

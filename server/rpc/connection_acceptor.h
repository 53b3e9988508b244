#ifndef GRAFT_SERVER_RPC_CONNECTION_ACCEPTOR_H_
#define GRAFT_SERVER_RPC_CONNECTION_ACCEPTOR_H_

#include <sys/types.h>

#include <functional>
#include <thread>
#include <vector>

#include "server/rpc/listen_socket.h"

namespace graft {

// Accepts connections in gRPC's place. gRPC 1.51's own loop stops for ever when
// accept() once fails for want of a descriptor (CVE-2023-4785): one client with
// many connections switches the server off. Here surplus connections are closed
// at once, and service goes on as soon as others have left:
//
//   - at most `max_connections` are open; the next ones are closed;
//   - one descriptor is kept spare, so that a connection can be accepted and
//     closed even when none is left.
//
// One thread of its own. Thread-compatible.
class ConnectionAcceptor {
 public:
  // Takes ownership of a connected, non-blocking descriptor. Accept thread.
  using Handler = std::function<void(int fd)>;

  // Begins to accept. REQUIRES: max_connections > 0.
  ConnectionAcceptor(ListenSocket socket, int max_connections, Handler handler);

  // Stops; connections that were handed over are not touched.
  ~ConnectionAcceptor();

  ConnectionAcceptor(const ConnectionAcceptor&) = delete;
  ConnectionAcceptor& operator=(const ConnectionAcceptor&) = delete;

 private:
  // A descriptor that was handed over. It is still that connection as long as
  // the number stands for the same inode: gRPC closes it without a word.
  struct Connection {
    int fd;
    ino_t inode;
  };

  // The accept thread.
  void Run();
  void AcceptOne();

  // Accepts and closes one connection although no descriptor is free.
  void RefuseOne();

  // Whether one more may be open. Looks through all only when the count says
  // no.
  bool HasRoom();

  // Logs when refusals begin and when they end, not each of them.
  void NoteRefusing(bool refusing);

  const ListenSocket socket_;
  const size_t max_connections_;
  const Handler handler_;
  const int stop_fd_;  // an eventfd: readable when it is time to stop

  // Accept thread only.
  int spare_fd_;
  std::vector<Connection> connections_;
  bool refusing_ = false;

  std::thread thread_;
};

// How many connections fit: `limit` descriptors of the process less those open
// now and some for files; at least 1.
int MaxConnectionsForDescriptors(int limit);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_CONNECTION_ACCEPTOR_H_

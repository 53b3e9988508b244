#ifndef GRAFT_SERVER_RPC_GRPC_SERVER_H_
#define GRAFT_SERVER_RPC_GRPC_SERVER_H_

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/rpc/adapter_service.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/connection_acceptor.h"
#include "server/rpc/generation_service.h"
#include "server/rpc/rpc_environment.h"
#include "server/rpc/tls_files.h"

namespace graft {

// How the server treats connections. The defaults are what hostile networks
// taught: no client can hold a connection, a stream or memory for ever.
struct TransportOptions {
  std::string listen = "127.0.0.1:50051";
  // 0: as many as the process may have descriptors for.
  int max_connections = 0;
  TlsFiles tls;
  // How often the files of `tls` are read again.
  absl::Duration tls_refresh = absl::Seconds(10);
  int max_concurrent_streams = 128;  // of one connection
  int64_t max_message_bytes = int64_t{4} << 20;
  int max_metadata_bytes = 8 << 10;
  // A peer that does not answer a ping is gone, though TCP has not noticed.
  absl::Duration keepalive_time = absl::Seconds(30);
  absl::Duration keepalive_timeout = absl::Seconds(10);
  // A client that pings faster is cut off.
  absl::Duration min_ping_interval = absl::Seconds(10);
  // Clients reconnect after it, so that a load balancer can spread them anew;
  // what runs then has the grace to end. No call lasts longer than both.
  absl::Duration max_connection_age = absl::Minutes(30);
  absl::Duration max_connection_age_grace = absl::Minutes(10);
  // A client that does not take one message in this time is cut off: a stopped
  // reader would else hold its images for ever.
  absl::Duration write_timeout = absl::Seconds(30);
  // At the end: for the last messages of calls that are over to be sent.
  absl::Duration last_words = absl::Seconds(2);
};

// The port with everything behind it: the three services, standard health
// (grpc.health.v1) and reflection. Open, but NOT_SERVING, when it is made.
class GrpcServer {
 public:
  // INVALID_FIELD (field "listen") if the address cannot be had.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const TransportOptions& options, const RpcEnvironment& environment);

  // Shuts down without patience, if Shutdown was not called.
  ~GrpcServer();

  // "127.0.0.1:50051": where clients can connect.
  const std::string& address() const { return address_; }

  // What health says of "" and of each service, until StopServing.
  void SetServing(bool serving);

  // Health says NOT_SERVING, for good.
  void StopServing();

  // Waits until clients have read what is left of their images, or are cut off
  // as they do not read; `timeout` at most.
  void WaitForReaders(absl::Duration timeout);

  // Refuses new connections and RPCs and waits for those that run; cancels what
  // is left after `grace`. As often as one likes.
  void Shutdown(absl::Duration grace);

 private:
  explicit GrpcServer(const RpcEnvironment& environment);

  std::string address_;
  GenerationServiceImpl generation_;
  AdapterServiceImpl adapters_;
  AdminServiceImpl admin_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> entrance_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ConnectionAcceptor> acceptor_;  // until Shutdown
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_GRPC_SERVER_H_

#include "server/rpc/grpc_server.h"

#include <grpc/support/time.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server_builder.h>
#include <sys/resource.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/malformed_requests.h"

namespace graft {
namespace {

// From a connection to its first call.
constexpr absl::Duration kFirstCallTime = absl::Milliseconds(50);

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

// Both plugins are gRPC's, for the whole process, and must be there before the
// first server.
void EnableHealthAndReflection() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

// Of those that wait in calls of gRPC's own synchronous services (reflection),
// which need no token: else each open stream would have one.
constexpr int kMaxSynchronousThreads = 8;

void Configure(const TransportOptions& options, grpc::ServerBuilder& builder) {
  grpc::ResourceQuota quota("graftd");
  quota.SetMaxThreads(kMaxSynchronousThreads);
  builder.SetResourceQuota(quota);
  // gRPC inflates a request before it looks at its size: 1 MB on the wire can
  // become 1 GB in memory. Requests need no compression.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE,
                             options.max_metadata_bytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             options.max_concurrent_streams);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                             Milliseconds(options.keepalive_time));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             Milliseconds(options.keepalive_timeout));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
      Milliseconds(options.min_ping_interval));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             Milliseconds(options.max_connection_age));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             Milliseconds(options.max_connection_age_grace));
}

int ChooseMaxConnections(const TransportOptions& options) {
  if (options.max_connections > 0) return options.max_connections;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  constexpr rlim_t kMost = std::numeric_limits<int>::max();
  return MaxConnectionsForDescriptors(
      static_cast<int>(std::min(limit.rlim_cur, kMost)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const TransportOptions& options, const RpcEnvironment& environment) {
  GRAFT_ASSIGN_OR_RETURN(ListenSocket socket,
                         ListenSocket::Bind(options.listen));
  EnableHealthAndReflection();
  std::unique_ptr<GrpcServer> server(new GrpcServer(environment));
  grpc::ServerBuilder builder;
  Configure(options, builder);
  builder.RegisterService(&server->generation_);
  builder.RegisterService(&server->adapters_);
  builder.RegisterService(&server->admin_);
  std::vector<
      std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
      interceptors;
  interceptors.push_back(MakeMalformedRequestInterceptors());
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  server->entrance_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      MakeServerCredentials(options.tls, options.tls_refresh));
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr) {
    return Error(ErrorReason::kInternal, "gRPC could not start a server");
  }
  server->SetServing(false);
  server->address_ = socket.address();
  server->acceptor_ = std::make_unique<ConnectionAcceptor>(
      std::move(socket), ChooseMaxConnections(options),
      [entrance = server->entrance_.get()](int fd) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters
            connection;
        connection.fd = fd;
        entrance->HandleNewConnection(&connection);
      });
  return server;
}

GrpcServer::GrpcServer(const RpcEnvironment& environment)
    : generation_(environment), adapters_(environment), admin_(environment) {}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) Shutdown(absl::ZeroDuration());
}

void GrpcServer::SetServing(bool serving) {
  auto* const health = server_->GetHealthCheckService();
  health->SetServingStatus(serving);  // "" and every name set before
  for (const char* const service : {v1::GenerationService::service_full_name(),
                                    v1::AdapterService::service_full_name(),
                                    v1::AdminService::service_full_name()}) {
    health->SetServingStatus(service, serving);
  }
}

void GrpcServer::StopServing() { server_->GetHealthCheckService()->Shutdown(); }

void GrpcServer::WaitForReaders(absl::Duration timeout) {
  generation_.WaitUntilNoStream(timeout);
}

void GrpcServer::Shutdown(absl::Duration grace) {
  // gRPC ends calls that arrive from now on with CANCELLED, which no client
  // tries again. Whoever connected just before hears from the services first
  // that they are draining.
  if (acceptor_ != nullptr) {
    acceptor_.reset();
    absl::SleepFor(std::min(grace, kFirstCallTime));
  }
  server_->Shutdown(gpr_time_add(
      gpr_now(GPR_CLOCK_MONOTONIC),
      gpr_time_from_millis(absl::ToInt64Milliseconds(grace), GPR_TIMESPAN)));
  server_->Wait();
}

}  // namespace graft

#ifndef GRAFT_SERVER_RPC_MALFORMED_REQUESTS_H_
#define GRAFT_SERVER_RPC_MALFORMED_REQUESTS_H_

#include <grpcpp/support/server_interceptor.h>

#include <memory>

namespace graft {

// gRPC answers a message that it cannot take apart, one with a text that is no
// UTF-8 for instance, as if there were no such method: UNIMPLEMENTED, without a
// word. What this makes turns that into INVALID_FIELD (field "request"), for
// the methods of our services.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
MakeMalformedRequestInterceptors();

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_MALFORMED_REQUESTS_H_

#ifndef GRAFT_SERVER_RPC_AUTHENTICATOR_H_
#define GRAFT_SERVER_RPC_AUTHENTICATOR_H_

#include <grpcpp/security/auth_context.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/token_table.h"

namespace graft {

// Tells callers by the bearer tokens of a file, which may change while the
// server runs. Thread-safe.
class Authenticator {
 public:
  // INVALID_FIELD (field "token_file") if the file cannot be read, or as
  // TokenTable::Parse.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Create(
      const std::string& token_file);

  // Reads the file again. After an error the former tokens stay valid.
  absl::Status Reload() ABSL_LOCKS_EXCLUDED(mu_);

  // Sets context.tenant to the one that the value of the header "authorization"
  // ("Bearer TOKEN") stands for. TOKEN_INVALID, or ROLE_NOT_ALLOWED for
  // context.method.
  absl::Status Authenticate(absl::string_view authorization,
                            RpcContext& context) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Authenticator(std::string token_file, TokenTable table);

  const std::string token_file_;
  mutable absl::Mutex mu_;
  std::shared_ptr<const TokenTable> table_ ABSL_GUARDED_BY(mu_);
};

// `hooks` for a server whose callers `authenticator` knows; it outlives them.
RpcHooks WithAuthentication(RpcHooks hooks, const Authenticator* authenticator);

// Whom the client's certificate names: the first URI among its alternative
// names, else the first DNS name, else the common name, at most 256 printable
// ASCII characters. TOKEN_INVALID if that is no name, or there is none.
absl::StatusOr<std::string> CertificateName(const grpc::AuthContext& peer);

// `hooks` for a server that wants certificates of its clients, and no tokens:
// the tenant is the certificate's name, and may call every method.
RpcHooks WithCertificates(RpcHooks hooks);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_AUTHENTICATOR_H_

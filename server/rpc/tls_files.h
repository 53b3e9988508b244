#ifndef GRAFT_SERVER_RPC_TLS_FILES_H_
#define GRAFT_SERVER_RPC_TLS_FILES_H_

#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace graft {

// Paths of the PEM files that a server proves itself with, and its clients.
struct TlsFiles {
  std::string certificate;  // chain, the server's own first; empty: no TLS
  std::string key;          // its private key, not encrypted
  std::string client_ca;    // clients need a certificate of these; empty: none

  bool enabled() const { return !certificate.empty(); }
};

// OK if the files can be read and belong together. Else INVALID_FIELD with the
// flag (tls_cert, tls_key, tls_client_ca) and the file: gRPC itself would start
// and refuse every client.
absl::Status CheckTlsFiles(const TlsFiles& files);

// What a server listens with: TLS with `files`, which are read again every
// `refresh` (at least a second) so that a new certificate needs no restart, or
// no encryption. REQUIRES: CheckTlsFiles(files).
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(
    const TlsFiles& files, absl::Duration refresh);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_TLS_FILES_H_

#include "server/rpc/authenticator.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

constexpr absl::string_view kScheme = "Bearer ";
constexpr size_t kMaxNameBytes = 256;

// What gRPC calls the names in a certificate, the first choice first.
constexpr const char* kNameProperties[] = {"peer_uri", "peer_dns",
                                           "x509_common_name"};

bool IsPrintable(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return absl::ascii_isgraph(c); });
}

absl::StatusOr<TokenTable> ReadTable(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) {
    return Error(ErrorReason::kInvalidField,
                 absl::StrCat("--token_file: \"", EscapeUntrusted(path),
                              "\" cannot be read, or is empty"),
                 {{"field", "token_file"}});
  }
  return TokenTable::Parse(text.str());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Authenticator>> Authenticator::Create(
    const std::string& token_file) {
  GRAFT_ASSIGN_OR_RETURN(TokenTable table, ReadTable(token_file));
  return std::unique_ptr<Authenticator>(
      new Authenticator(token_file, std::move(table)));
}

Authenticator::Authenticator(std::string token_file, TokenTable table)
    : token_file_(std::move(token_file)),
      table_(std::make_shared<const TokenTable>(std::move(table))) {}

absl::Status Authenticator::Reload() {
  GRAFT_ASSIGN_OR_RETURN(TokenTable table, ReadTable(token_file_));
  auto shared = std::make_shared<const TokenTable>(std::move(table));
  absl::MutexLock lock(&mu_);
  table_ = std::move(shared);
  return absl::OkStatus();
}

absl::Status Authenticator::Authenticate(absl::string_view authorization,
                                         RpcContext& context) const {
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) {
    return Error(ErrorReason::kTokenInvalid,
                 "this server wants a bearer token (metadata \"authorization: "
                 "Bearer TOKEN\")");
  }
  std::shared_ptr<const TokenTable> table;
  {
    absl::MutexLock lock(&mu_);
    table = table_;
  }
  const Caller* const caller =
      table->Find(authorization.substr(kScheme.size()));
  if (caller == nullptr) {
    return Error(ErrorReason::kTokenInvalid,
                 "the bearer token is none that this server knows");
  }
  context.tenant = caller->tenant;
  return CheckRole(*caller, context.method);
}

RpcHooks WithAuthentication(RpcHooks hooks,
                            const Authenticator* authenticator) {
  hooks.authenticate = [authenticator](const grpc::CallbackServerContext& call,
                                       RpcContext& context) {
    return authenticator->Authenticate(Header(call, "authorization"), context);
  };
  return hooks;
}

absl::StatusOr<std::string> CertificateName(const grpc::AuthContext& peer) {
  for (const char* const property : kNameProperties) {
    const std::vector<grpc::string_ref> names =
        peer.FindPropertyValues(property);
    if (names.empty() || names.front().empty()) continue;
    std::string name(names.front().data(), names.front().size());
    if (name.size() <= kMaxNameBytes && IsPrintable(name)) return name;
    return Error(ErrorReason::kTokenInvalid,
                 absl::StrCat("the name in the client's certificate, \"",
                              EscapeUntrusted(name, kMaxNameBytes),
                              "\", is not of at most ", kMaxNameBytes,
                              " printable ASCII characters"));
  }
  return Error(ErrorReason::kTokenInvalid,
               "the client's certificate names nobody: it has neither a URI or "
               "DNS name nor a common name");
}

RpcHooks WithCertificates(RpcHooks hooks) {
  hooks.authenticate = [](const grpc::CallbackServerContext& call,
                          RpcContext& context) -> absl::Status {
    GRAFT_ASSIGN_OR_RETURN(context.tenant,
                           CertificateName(*call.auth_context()));
    return absl::OkStatus();
  };
  return hooks;
}

}  // namespace graft

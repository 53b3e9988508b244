#ifndef GRAFT_SERVER_RPC_TOKEN_TABLE_H_
#define GRAFT_SERVER_RPC_TOKEN_TABLE_H_

#include <map>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

// What a caller may do.
enum class Role {
  kGenerate,  // make images, and cancel one's own
  kAdapters,  // load, upload, pin and unload adapters
  kAdmin,     // verify and repair the weights, drain the server
  kRead,      // see what is served and loaded; every other role may that too
};

// Who a token stands for.
struct Caller {
  std::string tenant;
  std::set<Role> roles;  // at least one
};

// The bearer tokens that a server knows, by their SHA-256: the tokens
// themselves are stored nowhere. Immutable.
class TokenTable {
 public:
  // A table from the text of a token file: a line for each token,
  //
  //   tenant:role[,role]:sha256-of-token
  //
  // with the roles generate, adapters, admin and read; empty lines and lines
  // that begin with # are skipped. INVALID_FIELD (field "token_file") names the
  // first line that is wrong. A file without tokens is wrong too: nobody could
  // call.
  static absl::StatusOr<TokenTable> Parse(absl::string_view text);

  // nullptr: there is no such token.
  const Caller* Find(absl::string_view token) const;

 private:
  TokenTable() = default;

  std::map<std::string, Caller> callers_;  // by SHA-256 of the token
};

// OK if `caller` may call `method` (its bare name); else ROLE_NOT_ALLOWED. A
// method that is not known here may be called by nobody.
absl::Status CheckRole(const Caller& caller, absl::string_view method);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_TOKEN_TABLE_H_

#include "server/rpc/token_table.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/adapters/adapter_id.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "server/rpc/request_validation.h"

namespace graft {
namespace {

constexpr std::pair<absl::string_view, Role> kRoles[] = {
    {"generate", Role::kGenerate},
    {"adapters", Role::kAdapters},
    {"admin", Role::kAdmin},
    {"read", Role::kRead},
};

constexpr std::pair<absl::string_view, Role> kMethods[] = {
    {"GenerateImage", Role::kGenerate},  {"CancelGeneration", Role::kGenerate},
    {"LoadAdapter", Role::kAdapters},    {"UploadAdapter", Role::kAdapters},
    {"UnloadAdapter", Role::kAdapters},  {"UpdateAdapter", Role::kAdapters},
    {"GetAdapter", Role::kRead},         {"ListAdapters", Role::kRead},
    {"GetServerInfo", Role::kRead},      {"GetLoad", Role::kRead},
    {"VerifyBaseWeights", Role::kAdmin}, {"Drain", Role::kAdmin},
};

template <typename Table>
std::optional<Role> FindRole(const Table& table, absl::string_view name) {
  for (const auto& [known, role] : table) {
    if (known == name) return role;
  }
  return std::nullopt;
}

absl::string_view RoleName(Role wanted) {
  for (const auto& [name, role] : kRoles) {
    if (role == wanted) return name;
  }
  return "";
}

absl::Status WrongLine(int number, absl::string_view why) {
  return Error(ErrorReason::kInvalidField,
               absl::StrCat("--token_file: line ", number, ": ", why,
                            "; a line is tenant:role[,role]:sha256-of-token"),
               {{"field", "token_file"}});
}

absl::StatusOr<std::set<Role>> ParseRoles(int line, absl::string_view text) {
  std::set<Role> roles;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    const std::optional<Role> role = FindRole(kRoles, name);
    if (!role) {
      return WrongLine(line, absl::StrCat("\"", EscapeUntrusted(name, 64),
                                          "\" is none of the roles generate, "
                                          "adapters, admin and read"));
    }
    roles.insert(*role);
  }
  return roles;
}

}  // namespace

absl::StatusOr<TokenTable> TokenTable::Parse(absl::string_view text) {
  TokenTable table;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const std::vector<absl::string_view> parts = absl::StrSplit(line, ':');
    if (parts.size() != 3) return WrongLine(number, "it has not three parts");
    if (!IsValidAdapterId(parts[0])) {
      return WrongLine(number,
                       "the tenant is no name of letters, digits, "
                       "dots, underscores and hyphens");
    }
    Caller caller;
    caller.tenant = std::string(parts[0]);
    GRAFT_ASSIGN_OR_RETURN(caller.roles, ParseRoles(number, parts[1]));
    const absl::StatusOr<std::string> sha256 =
        ValidateSha256(parts[2], "token_file");
    if (!sha256.ok() || sha256->empty()) {
      return WrongLine(number, "the SHA-256 has not 64 hexadecimal digits");
    }
    if (!table.callers_.emplace(*sha256, std::move(caller)).second) {
      return WrongLine(number, "the token has a line already");
    }
  }
  if (table.callers_.empty()) {
    return Error(ErrorReason::kInvalidField,
                 "--token_file: there is no token in it, so nobody could call",
                 {{"field", "token_file"}});
  }
  return table;
}

const Caller* TokenTable::Find(absl::string_view token) const {
  const auto found = callers_.find(Sha256Hex(token.data(), token.size()));
  return found == callers_.end() ? nullptr : &found->second;
}

absl::Status CheckRole(const Caller& caller, absl::string_view method) {
  const std::optional<Role> role = FindRole(kMethods, method);
  if (role == Role::kRead || (role && caller.roles.count(*role) > 0)) {
    return absl::OkStatus();
  }
  return Error(ErrorReason::kRoleNotAllowed,
               role ? absl::StrCat(method, " needs the role ", RoleName(*role),
                                   ", which the token does not have")
                    : absl::StrCat(method, " is allowed to nobody"),
               {{"method", std::string(method)}});
}

}  // namespace graft

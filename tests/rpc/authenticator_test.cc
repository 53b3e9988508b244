#include "server/rpc/authenticator.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::HasSubstr;

class AuthenticatorTest : public testing::Test {
 protected:
  // Writes the token file with one line.
  void Write(const std::string& who, const std::string& token) {
    dir_.Write("tokens",
               absl::StrCat(who, ":", Sha256Hex(token.data(), token.size())));
  }

  absl::StatusOr<std::unique_ptr<Authenticator>> Create() {
    return Authenticator::Create(dir_.File("tokens"));
  }

  TempDir dir_;
};

RpcContext Calling(const std::string& method) {
  RpcContext context;
  context.method = method;
  return context;
}

TEST_F(AuthenticatorTest, TokenTellsTheTenant) {
  Write("studio:generate", "secret");
  const auto authenticator = Create();
  ASSERT_THAT(authenticator, IsOk());
  RpcContext context = Calling("GenerateImage");
  EXPECT_THAT((*authenticator)->Authenticate("Bearer secret", context), IsOk());
  EXPECT_EQ(context.tenant, "studio");
  EXPECT_THAT((*authenticator)->Authenticate("bearer secret", context), IsOk());
}

TEST_F(AuthenticatorTest, NoTokenAndWrongTokensAreRefused) {
  Write("studio:generate", "secret");
  const auto authenticator = Create();
  ASSERT_THAT(authenticator, IsOk());
  for (const char* const header :
       {"", "secret", "Basic secret", "Bearer", "Bearer ", "Bearer Secret",
        "Bearer secret ", "Bearer  secret"}) {
    RpcContext context = Calling("GenerateImage");
    EXPECT_THAT((*authenticator)->Authenticate(header, context),
                HasReason(ErrorReason::kTokenInvalid))
        << header;
    EXPECT_EQ(context.tenant, "default");
  }
}

TEST_F(AuthenticatorTest, RoleIsChecked) {
  Write("studio:generate", "secret");
  const auto authenticator = Create();
  ASSERT_THAT(authenticator, IsOk());
  RpcContext context = Calling("LoadAdapter");
  EXPECT_THAT((*authenticator)->Authenticate("Bearer secret", context),
              HasReason(ErrorReason::kRoleNotAllowed));
}

TEST_F(AuthenticatorTest, ReloadTakesTheNewTokens) {
  Write("studio:generate", "secret");
  const auto authenticator = Create();
  ASSERT_THAT(authenticator, IsOk());
  Write("studio:generate", "fresh");
  EXPECT_THAT((*authenticator)->Reload(), IsOk());
  RpcContext context = Calling("GenerateImage");
  EXPECT_THAT((*authenticator)->Authenticate("Bearer secret", context),
              HasReason(ErrorReason::kTokenInvalid));
  EXPECT_THAT((*authenticator)->Authenticate("Bearer fresh", context), IsOk());
}

TEST_F(AuthenticatorTest, BadReloadKeepsTheFormerTokens) {
  Write("studio:generate", "secret");
  const auto authenticator = Create();
  ASSERT_THAT(authenticator, IsOk());
  dir_.Write("tokens", "nonsense");
  EXPECT_THAT((*authenticator)->Reload(),
              HasReason(ErrorReason::kInvalidField, HasSubstr("line 1")));
  RpcContext context = Calling("GenerateImage");
  EXPECT_THAT((*authenticator)->Authenticate("Bearer secret", context), IsOk());
}

TEST_F(AuthenticatorTest, MissingFileIsAnError) {
  EXPECT_THAT(Create(),
              HasReason(ErrorReason::kInvalidField, HasSubstr("--token_file")));
}

}  // namespace
}  // namespace graft

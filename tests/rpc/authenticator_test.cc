#include "server/rpc/authenticator.h"

#include <string>
#include <utility>
#include <vector>

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

// gRPC lets nobody else make an iterator.
class NoProperties : public grpc::AuthPropertyIterator {};

// What gRPC tells of a client's certificate.
class FakePeer : public grpc::AuthContext {
 public:
  explicit FakePeer(std::vector<std::pair<std::string, std::string>> properties)
      : properties_(std::move(properties)) {}

  bool IsPeerAuthenticated() const override { return true; }
  std::vector<grpc::string_ref> GetPeerIdentity() const override { return {}; }
  std::string GetPeerIdentityPropertyName() const override { return ""; }
  std::vector<grpc::string_ref> FindPropertyValues(
      const std::string& name) const override {
    std::vector<grpc::string_ref> values;
    for (const auto& [key, value] : properties_) {
      if (key == name) values.emplace_back(value);
    }
    return values;
  }
  grpc::AuthPropertyIterator begin() const override { return NoProperties(); }
  grpc::AuthPropertyIterator end() const override { return NoProperties(); }
  void AddProperty(const std::string&, const grpc::string_ref&) override {}
  bool SetPeerIdentityPropertyName(const std::string&) override {
    return false;
  }

 private:
  const std::vector<std::pair<std::string, std::string>> properties_;
};

TEST(CertificateNameTest, UriComesBeforeDnsBeforeCommonName) {
  const std::pair<std::string, std::string> common{"x509_common_name", "cn"};
  const std::pair<std::string, std::string> dns{"peer_dns", "studio.local"};
  const std::pair<std::string, std::string> uri{"peer_uri", "spiffe://a/b"};
  EXPECT_THAT(CertificateName(FakePeer({common, dns, uri})),
              IsOkAndHolds("spiffe://a/b"));
  EXPECT_THAT(CertificateName(FakePeer({common, dns, {"peer_dns", "other"}})),
              IsOkAndHolds("studio.local"));
  EXPECT_THAT(CertificateName(FakePeer({common})), IsOkAndHolds("cn"));
}

TEST(CertificateNameTest, CertificateWithoutAUsableNameIsRefused) {
  for (const std::string& name :
       {std::string(), std::string(257, 'a'), std::string("a b"),
        std::string("a\nb"), std::string("\xc3\xa9")}) {
    EXPECT_THAT(CertificateName(FakePeer({{"x509_common_name", name}})),
                HasReason(ErrorReason::kTokenInvalid))
        << name;
  }
  EXPECT_THAT(CertificateName(FakePeer({})),
              HasReason(ErrorReason::kTokenInvalid, HasSubstr("nobody")));
  // A bad name is not passed over for a lesser one.
  EXPECT_THAT(CertificateName(FakePeer(
                  {{"peer_uri", "a b"}, {"x509_common_name", "admin"}})),
              HasReason(ErrorReason::kTokenInvalid));
}

}  // namespace
}  // namespace graft

// TLS, bearer tokens and their reload, through the real client.

#include <grpcpp/client_context.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/sha256.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/rpc/certificates.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

std::string TokenLine(const std::string& who, const std::string& token) {
  return absl::StrCat(who, ":", Sha256Hex(token.data(), token.size()), "\n");
}

class SecurityTest : public testing::Test {
 protected:
  void WriteIdentity(const CertificateAuthority& authority) {
    const KeyPair pair = authority.Issue("localhost");
    files_.Write("cert.pem", pair.certificate);
    files_.Write("key.pem", pair.key);
  }

  // What graftd is told by --tls_cert and --tls_key.
  void UseTls(DaemonOptions& options) {
    options.transport.tls.certificate = files_.File("cert.pem");
    options.transport.tls.key = files_.File("key.pem");
    options.transport.tls_refresh = absl::Seconds(1);
  }

  static absl::Status Ask(const InProcessDaemon& daemon,
                          const ChannelSecurity& security,
                          const std::string& token = "") {
    return GraftClient({.server = daemon.address(),
                        .security = security,
                        .token = token,
                        .timeout = absl::Seconds(30)})
        .GetServerInfo()
        .status();
  }

  TempDir files_;
  const CertificateAuthority authority_{"graft test"};
};

TEST_F(SecurityTest, TlsServesThoseWhoTrustTheCertificate) {
  WriteIdentity(authority_);
  InProcessDaemon daemon([this](DaemonOptions& options) { UseTls(options); });
  EXPECT_TRUE(Ask(daemon, {.server_ca = authority_.certificate()}).ok());
  const CertificateAuthority other("another");
  EXPECT_EQ(Ask(daemon, {.server_ca = other.certificate()}).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(Ask(daemon, {}).code(), absl::StatusCode::kUnavailable);
}

TEST_F(SecurityTest, MutualTlsWantsACertificateOfTheClientToo) {
  WriteIdentity(authority_);
  const CertificateAuthority clients("clients");
  files_.Write("clients.pem", clients.certificate());
  InProcessDaemon daemon([this](DaemonOptions& options) {
    UseTls(options);
    options.transport.tls.client_ca = files_.File("clients.pem");
  });
  const KeyPair good = clients.Issue("somebody");
  EXPECT_TRUE(Ask(daemon, {.server_ca = authority_.certificate(),
                           .certificate = good.certificate,
                           .key = good.key})
                  .ok());
  const KeyPair bad = CertificateAuthority("another").Issue("somebody");
  EXPECT_EQ(Ask(daemon, {.server_ca = authority_.certificate(),
                         .certificate = bad.certificate,
                         .key = bad.key})
                .code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(Ask(daemon, {.server_ca = authority_.certificate()}).code(),
            absl::StatusCode::kUnavailable);
}

// Without tokens, the certificate's name is the tenant, and all may do all.
TEST_F(SecurityTest, TenantIsWhomTheCertificateNames) {
  WriteIdentity(authority_);
  const CertificateAuthority clients("clients");
  files_.Write("clients.pem", clients.certificate());
  InProcessDaemon daemon([this](DaemonOptions& options) {
    UseTls(options);
    options.transport.tls.client_ca = files_.File("clients.pem");
  });
  v1::GenerateImageRequest request;
  request.set_steps(1);
  request.set_request_id("id");
  const auto generate = [&](const KeyPair& pair) {
    return GraftClient({.server = daemon.address(),
                        .security = {.server_ca = authority_.certificate(),
                                     .certificate = pair.certificate,
                                     .key = pair.key}})
        .Generate(request, [](const v1::GenerateImageResponse&) {})
        .status();
  };
  const auto begun = [&daemon] {
    return daemon.engine().calls(FakeEngine::Call::kBegin);
  };
  EXPECT_TRUE(generate(clients.Issue("a", "")).ok());
  EXPECT_EQ(begun(), 1);
  // Another key and other names of the same caller: the request is a replay.
  EXPECT_TRUE(generate(clients.Issue("b", "DNS:a")).ok());
  EXPECT_TRUE(generate(clients.Issue("c", "DNS:b,URI:a")).ok());
  EXPECT_EQ(begun(), 1);
  EXPECT_TRUE(generate(clients.Issue("b", "")).ok());
  EXPECT_EQ(begun(), 2);
  EXPECT_TRUE(generate(clients.Issue("a", "URI:spiffe://studio/a")).ok());
  EXPECT_EQ(begun(), 3);
  const absl::Status nobody = generate(clients.Issue("", "IP:127.0.0.1"));
  EXPECT_EQ(nobody.code(), absl::StatusCode::kUnauthenticated) << nobody;
  EXPECT_EQ(ErrorReasonOf(nobody), "TOKEN_INVALID");
}

TEST_F(SecurityTest, WithTokensTheCertificateAloneDoesNotDo) {
  WriteIdentity(authority_);
  const CertificateAuthority clients("clients");
  files_.Write("clients.pem", clients.certificate());
  const std::string tokens =
      files_.Write("tokens", TokenLine("studio:read", "secret"));
  InProcessDaemon daemon([&](DaemonOptions& options) {
    UseTls(options);
    options.transport.tls.client_ca = files_.File("clients.pem");
    options.token_file = tokens;
  });
  const KeyPair pair = clients.Issue("studio");
  const ChannelSecurity security = {.server_ca = authority_.certificate(),
                                    .certificate = pair.certificate,
                                    .key = pair.key};
  EXPECT_EQ(ErrorReasonOf(Ask(daemon, security)), "TOKEN_INVALID");
  EXPECT_TRUE(Ask(daemon, security, "secret").ok());
  GraftClient client(
      {.server = daemon.address(), .security = security, .token = "secret"});
  EXPECT_EQ(ErrorReasonOf(client.VerifyBaseWeights({}).status()),
            "ROLE_NOT_ALLOWED");
}

TEST_F(SecurityTest, NewCertificateNeedsNoRestart) {
  WriteIdentity(authority_);
  InProcessDaemon daemon([this](DaemonOptions& options) { UseTls(options); });
  const CertificateAuthority next("next");
  EXPECT_FALSE(Ask(daemon, {.server_ca = next.certificate()}).ok());
  WriteIdentity(next);
  while (!Ask(daemon, {.server_ca = next.certificate()}).ok()) continue;
  EXPECT_FALSE(Ask(daemon, {.server_ca = authority_.certificate()}).ok());
}

TEST_F(SecurityTest, TokensAreCheckedBeforeAnythingElse) {
  const std::string tokens =
      files_.Write("tokens", TokenLine("studio:generate", "secret"));
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.token_file = tokens; });
  EXPECT_TRUE(Ask(daemon, {}, "secret").ok());
  for (const char* const wrong : {"", "guess"}) {
    const absl::Status refused = Ask(daemon, {}, wrong);
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(ErrorReasonOf(refused), "TOKEN_INVALID");
  }
  GraftClient client({.server = daemon.address(), .token = "secret"});
  v1::LoadAdapterRequest load;
  load.set_path("../outside");  // would be PATH_NOT_ALLOWED
  const absl::Status refused = client.LoadAdapter(load).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrorReasonOf(refused), "ROLE_NOT_ALLOWED");
}

// What the caller may not touch is not looked up: no error tells whether it
// exists.
TEST_F(SecurityTest, RolesAreCheckedBeforeNames) {
  const std::string tokens =
      files_.Write("tokens", TokenLine("studio:read", "secret"));
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.token_file = tokens; });
  GraftClient client({.server = daemon.address(), .token = "secret"});
  v1::UnloadAdapterRequest unload;
  unload.set_name("nobody");
  EXPECT_EQ(ErrorReasonOf(client.UnloadAdapter(unload).status()),
            "ROLE_NOT_ALLOWED");
  v1::UpdateAdapterRequest update;
  update.mutable_adapter()->set_name("nobody");
  EXPECT_EQ(ErrorReasonOf(client.UpdateAdapter(update).status()),
            "ROLE_NOT_ALLOWED");
  v1::GenerateImageRequest generate;
  generate.add_adapters()->set_name("nobody");
  EXPECT_EQ(
      ErrorReasonOf(
          client.Generate(generate, [](const v1::GenerateImageResponse&) {})
              .status()),
      "ROLE_NOT_ALLOWED");
}

TEST_F(SecurityTest, ReloadTakesTheNewTokens) {
  const std::string tokens =
      files_.Write("tokens", TokenLine("studio:read", "secret"));
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.token_file = tokens; });
  files_.Write("tokens", TokenLine("studio:read", "fresh"));
  daemon.daemon().Reload();
  EXPECT_TRUE(Ask(daemon, {}, "fresh").ok());
  EXPECT_EQ(ErrorReasonOf(Ask(daemon, {}, "secret")), "TOKEN_INVALID");
  files_.Write("tokens", "nonsense");
  daemon.daemon().Reload();
  EXPECT_TRUE(Ask(daemon, {}, "fresh").ok());
}

// One tenant's ids mean nothing to another.
TEST_F(SecurityTest, TenantsCannotCancelOrJoinEachOthersRequests) {
  const std::string tokens = files_.Write(
      "tokens", TokenLine("a:generate", "a") + TokenLine("b:generate", "b"));
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.token_file = tokens; });
  v1::GenerateImageRequest request;
  request.set_steps(1);
  request.set_request_id("id");
  const auto generate = [&](const char* token) {
    return GraftClient({.server = daemon.address(), .token = token})
        .Generate(request, [](const v1::GenerateImageResponse&) {});
  };
  ASSERT_TRUE(generate("a").ok());
  ASSERT_TRUE(generate("b").ok());
  EXPECT_EQ(daemon.engine().calls(FakeEngine::Call::kBegin), 2);
  ASSERT_TRUE(generate("a").ok());
  EXPECT_EQ(daemon.engine().calls(FakeEngine::Call::kBegin), 2);
}

}  // namespace
}  // namespace graft

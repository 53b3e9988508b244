#include "server/rpc/tls_files.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/rpc/certificates.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Pair;

class TlsFilesTest : public testing::Test {
 protected:
  TlsFilesTest() {
    const CertificateAuthority authority("graft test");
    const KeyPair server = authority.Issue("localhost");
    files_ = {.certificate = dir_.Write("cert.pem", server.certificate),
              .key = dir_.Write("key.pem", server.key),
              .client_ca = dir_.Write("ca.pem", authority.certificate())};
  }

  void ExpectWrong(const std::string& flag, const std::string& message) {
    const absl::Status status = CheckTlsFiles(files_);
    EXPECT_THAT(status,
                HasReason(ErrorReason::kInvalidField,
                          AllOf(HasSubstr("--" + flag), HasSubstr(message))));
    EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("field", flag)));
  }

  TempDir dir_;
  TlsFiles files_;
};

TEST_F(TlsFilesTest, FilesThatBelongTogetherAreFine) {
  EXPECT_THAT(CheckTlsFiles(files_), IsOk());
  files_.client_ca.clear();
  EXPECT_THAT(CheckTlsFiles(files_), IsOk());
  EXPECT_THAT(CheckTlsFiles(TlsFiles()), IsOk());
}

TEST_F(TlsFilesTest, MissingFilesAreNamed) {
  files_.client_ca = "/nowhere/ca.pem";
  ExpectWrong("tls_client_ca", "\"/nowhere/ca.pem\" cannot be read");
  files_.key = "/nowhere/key.pem";
  ExpectWrong("tls_key", "\"/nowhere/key.pem\" cannot be read");
  files_.certificate = "/nowhere/cert.pem";
  ExpectWrong("tls_cert", "\"/nowhere/cert.pem\" cannot be read");
}

TEST_F(TlsFilesTest, EmptyAndJunkFilesAreRefused) {
  for (const char* const text : {"", "junk"}) {
    const TlsFiles good = files_;
    files_.client_ca = dir_.Write("bad", text);
    ExpectWrong("tls_client_ca", "holds no certificate");
    files_ = good;
    files_.certificate = dir_.File("bad");
    ExpectWrong("tls_cert", "holds no certificate");
    files_ = good;
    files_.key = dir_.File("bad");
    ExpectWrong("tls_key", "holds no private key");
    files_ = good;
  }
}

TEST_F(TlsFilesTest, KeyOfAnotherCertificateIsRefused) {
  files_.key = dir_.Write("other.pem",
                          CertificateAuthority("other").Issue("localhost").key);
  ExpectWrong("tls_key", "is not the key of the certificate");
}

TEST_F(TlsFilesTest, PartsAloneAreRefused) {
  const TlsFiles good = files_;
  files_.key.clear();
  ExpectWrong("tls_cert", "needs --tls_key");
  files_ = good;
  files_.certificate.clear();
  ExpectWrong("tls_key", "needs --tls_cert");
  files_.key.clear();
  ExpectWrong("tls_client_ca", "needs --tls_cert");
}

}  // namespace
}  // namespace graft

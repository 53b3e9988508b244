#include "server/rpc/tls_files.h"

#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using BioPtr = std::unique_ptr<BIO, Free>;
using CertificatePtr = std::unique_ptr<X509, Free>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free>;

absl::Status Wrong(absl::string_view flag, const std::string& path,
                   absl::string_view why) {
  ERR_clear_error();
  return Error(
      ErrorReason::kInvalidField,
      absl::StrCat("--", flag, ": \"", EscapeUntrusted(path), "\" ", why),
      {{"field", std::string(flag)}});
}

// The first certificate of a PEM file.
absl::StatusOr<CertificatePtr> ReadCertificate(absl::string_view flag,
                                               const std::string& path) {
  const BioPtr file(BIO_new_file(path.c_str(), "r"));
  if (file == nullptr) return Wrong(flag, path, "cannot be read");
  CertificatePtr certificate(
      PEM_read_bio_X509(file.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return Wrong(flag, path, "holds no certificate in PEM format");
  }
  return certificate;
}

absl::StatusOr<KeyPtr> ReadKey(const std::string& path) {
  const BioPtr file(BIO_new_file(path.c_str(), "r"));
  if (file == nullptr) return Wrong("tls_key", path, "cannot be read");
  // OpenSSL would ask a terminal for the password of an encrypted key.
  const auto no_password = [](char*, int, int, void*) { return 0; };
  KeyPtr key(
      PEM_read_bio_PrivateKey(file.get(), nullptr, no_password, nullptr));
  if (key == nullptr) {
    return Wrong("tls_key", path,
                 "holds no private key in PEM format, or an encrypted one");
  }
  return key;
}

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  if (!files.enabled()) {
    if (!files.key.empty()) {
      return Wrong("tls_key", files.key, "needs --tls_cert");
    }
    if (!files.client_ca.empty()) {
      return Wrong("tls_client_ca", files.client_ca, "needs --tls_cert");
    }
    return absl::OkStatus();
  }
  GRAFT_ASSIGN_OR_RETURN(const CertificatePtr certificate,
                         ReadCertificate("tls_cert", files.certificate));
  if (files.key.empty()) {
    return Wrong("tls_cert", files.certificate, "needs --tls_key");
  }
  GRAFT_ASSIGN_OR_RETURN(const KeyPtr key, ReadKey(files.key));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Wrong("tls_key", files.key,
                 absl::StrCat("is not the key of the certificate in \"",
                              EscapeUntrusted(files.certificate), "\""));
  }
  if (files.client_ca.empty()) return absl::OkStatus();
  return ReadCertificate("tls_client_ca", files.client_ca).status();
}

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(
    const TlsFiles& files, absl::Duration refresh) {
  if (!files.enabled()) return grpc::InsecureServerCredentials();
  const auto seconds = static_cast<unsigned>(
      std::max(int64_t{1}, absl::ToInt64Seconds(refresh)));
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.client_ca, seconds));
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(
        GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace graft

#include "tests/rpc/certificates.h"

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "gtest/gtest.h"

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

// What `write` writes.
template <typename Write>
std::string ToPem(const Write& write) {
  const BioPtr memory(BIO_new(BIO_s_mem()));
  EXPECT_EQ(write(memory.get()), 1);
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string ToPem(X509* certificate) {
  return ToPem([&](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

std::string ToPem(EVP_PKEY* key) {
  return ToPem([&](BIO* bio) {
    return PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr,
                                    nullptr);
  });
}

void AddExtension(X509* certificate, X509* issuer, int nid,
                  const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension =
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  ASSERT_NE(extension, nullptr);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// A certificate for `key`, to be signed.
CertificatePtr Unsigned(const std::string& name, EVP_PKEY* key, long serial) {
  CertificatePtr certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 24 * 60 * 60);
  if (!name.empty()) {
    X509_NAME_add_entry_by_txt(
        X509_get_subject_name(certificate.get()), "CN", MBSTRING_ASC,
        reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  }
  X509_set_pubkey(certificate.get(), key);
  return certificate;
}

}  // namespace

struct CertificateAuthority::Identity {
  KeyPtr key{EVP_EC_gen("P-256")};
  CertificatePtr certificate;
};

CertificateAuthority::CertificateAuthority(const std::string& name)
    : identity_(std::make_unique<Identity>()) {
  identity_->certificate = Unsigned(name, identity_->key.get(), 1);
  X509* const own = identity_->certificate.get();
  X509_set_issuer_name(own, X509_get_subject_name(own));
  AddExtension(own, own, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(own, own, NID_key_usage, "critical,keyCertSign");
  X509_sign(own, identity_->key.get(), EVP_sha256());
  certificate_ = ToPem(own);
}

CertificateAuthority::~CertificateAuthority() = default;

KeyPair CertificateAuthority::Issue(const std::string& host) const {
  return Issue(host, "DNS:" + host + ",IP:127.0.0.1");
}

KeyPair CertificateAuthority::Issue(
    const std::string& common_name,
    const std::string& alternative_names) const {
  const KeyPtr key(EVP_EC_gen("P-256"));
  const CertificatePtr issued = Unsigned(common_name, key.get(), 2);
  X509* const issuer = identity_->certificate.get();
  X509_set_issuer_name(issued.get(), X509_get_subject_name(issuer));
  if (!alternative_names.empty()) {
    AddExtension(issued.get(), issuer, NID_subject_alt_name, alternative_names);
  }
  X509_sign(issued.get(), identity_->key.get(), EVP_sha256());
  return {.certificate = ToPem(issued.get()), .key = ToPem(key.get())};
}

}  // namespace graft

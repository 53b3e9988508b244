#ifndef GRAFT_TESTS_RPC_CERTIFICATES_H_
#define GRAFT_TESTS_RPC_CERTIFICATES_H_

#include <memory>
#include <string>

namespace graft {

// A certificate and its private key, in PEM format.
struct KeyPair {
  std::string certificate;
  std::string key;
};

// Issues certificates for tests, valid for a day.
class CertificateAuthority {
 public:
  explicit CertificateAuthority(const std::string& name);
  ~CertificateAuthority();
  CertificateAuthority(const CertificateAuthority&) = delete;
  CertificateAuthority& operator=(const CertificateAuthority&) = delete;

  // In PEM format.
  const std::string& certificate() const { return certificate_; }

  // For a server that is called `host` or 127.0.0.1, or for a client.
  KeyPair Issue(const std::string& host) const;

  // For a client, with a common name and alternative names as OpenSSL writes
  // them: "URI:spiffe://a/b,DNS:c". Either may be empty.
  KeyPair Issue(const std::string& common_name,
                const std::string& alternative_names) const;

 private:
  struct Identity;

  const std::unique_ptr<Identity> identity_;
  std::string certificate_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_RPC_CERTIFICATES_H_

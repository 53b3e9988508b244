// What tells who may call: an input is a token file, a certificate and its key,
// and the headers of a call.

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/utf8.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/tls_files.h"
#include "server/rpc/token_table.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/rpc/certificates.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

void CheckIsField(const absl::Status& status) {
  GRAFT_FUZZ_CHECK(status.ok() ||
                   GetErrorReason(status) == ErrorReason::kInvalidField);
  GRAFT_FUZZ_CHECK(IsValidUtf8(status.message()));
}

void CheckTokens(absl::string_view text) {
  const auto table = TokenTable::Parse(text);
  CheckIsField(table.status());
  // The token "t" is in the seeds.
  const Caller* const caller = table.ok() ? table->Find("t") : nullptr;
  if (caller == nullptr) return;
  GRAFT_FUZZ_CHECK(!caller->tenant.empty() && !caller->roles.empty());
  CheckRole(*caller, text.substr(0, 32)).IgnoreError();
  GRAFT_FUZZ_CHECK(CheckRole(*caller, "GetLoad").ok());
}

void CheckFiles(absl::string_view text) {
  static const TempDir folder;
  const std::string file = folder.Write("file.pem", text);
  static const std::string* const good = new std::string(folder.Write(
      "good.pem", CertificateAuthority("authority").certificate()));
  CheckIsField(CheckTlsFiles({file, file, file}));
  CheckIsField(CheckTlsFiles({*good, file, ""}));
}

void CheckTrace(absl::string_view header) {
  const std::string trace = ParseTraceparent(header);
  GRAFT_FUZZ_CHECK(trace.empty() || (trace == header && trace.size() == 55));
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  const KeyPair pair = CertificateAuthority("authority").Issue("host");
  const std::string digest = Sha256Hex("t", 1);
  return {
      {absl::StrCat("# tokens\nstudio:generate,read:", digest, "\n\n"),
       absl::StrCat("a:admin:", digest, "\r\nb:adapters:", Sha256Hex("u", 1)),
       pair.certificate + pair.key,
       "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"},
      {":", ",", "\n", "#", "generate", "adapters", "admin", "read", digest,
       "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n",
       "-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n",
       "-----BEGIN RSA PRIVATE KEY-----\n", "Proc-Type: 4,ENCRYPTED\n",
       "DEK-Info: AES-128-CBC,00\n", "00-", "-01"},
      size_t{4} << 10,
      1000};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  graft::CheckTokens(input);
  graft::CheckFiles(input);
  graft::CheckTrace(input);
  return 0;
}

#include "client/file_digest.h"

#include <openssl/evp.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace graft {

absl::StatusOr<FileDigest> DigestFile(const std::string& path) {
  constexpr size_t kBufferBytes = size_t{1} << 20;
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash(
      EVP_MD_CTX_new(), EVP_MD_CTX_free);
  EVP_DigestInit_ex(hash.get(), EVP_sha256(), nullptr);
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  if (!file || !std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(
        absl::StrCat(path, ": there is no such file that can be read"));
  }
  FileDigest digest;
  std::vector<char> buffer(kBufferBytes);
  while (file) {
    file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    const auto size = static_cast<size_t>(file.gcount());
    EVP_DigestUpdate(hash.get(), buffer.data(), size);
    digest.size += size;
  }
  std::string bytes(EVP_MD_size(EVP_sha256()), '\0');
  EVP_DigestFinal_ex(hash.get(), reinterpret_cast<unsigned char*>(bytes.data()),
                     nullptr);
  digest.sha256 = absl::BytesToHexString(bytes);
  return digest;
}

}  // namespace graft

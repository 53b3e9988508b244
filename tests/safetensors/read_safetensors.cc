// Reads files for compare_with_reference.py: read_safetensors < PATHS >
// VERDICTS PATHS: one path a line. VERDICTS: per path one line, "refused" or,
// per tensor in the order of names, "<name in
// hex>:<dtype>:<dimensions>:<digest>", where the digest is the FNV-1a hash of
// the bytes, and then the metadata in hex.
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "server/safetensors/safetensors_file.h"

namespace {

uint64_t Fnv1a(absl::Span<const uint8_t> bytes) {
  uint64_t hash = 14695981039346656037u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 1099511628211u;
  return hash;
}

void Print(const graft::SafetensorsFile& file) {
  std::cout << "ok";
  for (const auto& [name, tensor] : file.tensors()) {
    std::cout << " " << absl::BytesToHexString(name) << ":"
              << graft::TensorDtypeName(tensor.dtype) << ":"
              << absl::StrJoin(tensor.shape, ",") << ":" << Fnv1a(tensor.bytes);
  }
  for (const auto& [key, value] : file.metadata()) {
    std::cout << " " << absl::BytesToHexString(key) << "="
              << absl::BytesToHexString(value);
  }
  std::cout << "\n";
}

}  // namespace

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    std::ifstream stream(path, std::ios::binary);
    const auto bytes = std::make_shared<std::vector<uint8_t>>(
        std::istreambuf_iterator<char>(stream),
        std::istreambuf_iterator<char>());
    const auto file = graft::SafetensorsFile::Parse(bytes, *bytes, path, {});
    if (file.ok()) {
      Print(*file);
    } else {
      std::cout << "refused " << file.status().message() << "\n";
    }
  }
  return 0;
}

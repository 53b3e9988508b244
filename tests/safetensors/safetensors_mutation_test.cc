#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <numeric>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {
namespace {

constexpr int kMutants = 20000;

std::string ValidFile() {
  const std::string header =
      "{\"__metadata__\":{\"ss_network_dim\":\"8\"},"
      "\"lora_unet_mid.lora_down.weight\":{\"dtype\":\"F16\",\"shape\":[8,4],"
      "\"data_offsets\":[0,64]},"
      "\"lora_unet_mid.lora_up.weight\":{\"dtype\":\"F32\",\"shape\":[4,8,1],"
      "\"data_offsets\":[64,192]},"
      "\"lora_unet_mid.alpha\":{\"dtype\":\"BF16\",\"shape\":[],"
      "\"data_offsets\":[192,194]}}   ";
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size() & 0xFF);
  bytes[1] = static_cast<char>(header.size() >> 8);
  return bytes + header + std::string(194, '\x3c');
}

// Pieces that mean something to the format, so that mutants get past the first
// checks.
constexpr const char* kPieces[] = {"{",
                                   "}",
                                   "[",
                                   "]",
                                   "\"",
                                   ",",
                                   ":",
                                   "-",
                                   ".",
                                   "0",
                                   "1",
                                   "9",
                                   "e9",
                                   "null",
                                   "U8",
                                   "F64",
                                   "true",
                                   "\\u00",
                                   "\\ud8",
                                   "\xff",
                                   "\xc0\x80",
                                   "{}",
                                   "[[",
                                   "\"\"",
                                   "shape",
                                   "dtype",
                                   "[0,0]",
                                   "18446744073709551615",
                                   " ",
                                   "\n",
                                   "//",
                                   "alpha",
                                   "__metadata__",
                                   "data_offsets",
                                   "4294967296"};

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  std::string Mutate(std::string bytes) {
    const size_t count = 1 + Below(4);
    for (size_t i = 0; i < count && !bytes.empty(); ++i) MutateOnce(bytes);
    return bytes;
  }

 private:
  // mt19937's own numbers are the same everywhere; distributions' are not.
  size_t Below(size_t bound) { return random_() % bound; }

  void MutateOnce(std::string& bytes) {
    const size_t at = Below(bytes.size());
    switch (Below(6)) {
      case 0:
        bytes[at] = static_cast<char>(Below(256));
        break;
      case 1:
        bytes[at] ^= static_cast<char>(1 << Below(8));
        break;
      case 2:
        bytes.erase(at, 1 + Below(16));
        break;
      case 3:
        bytes.insert(at, bytes.substr(Below(bytes.size()), Below(64)));
        FixLength(bytes);
        break;
      case 4:
        bytes.insert(at, kPieces[Below(std::size(kPieces))]);
        FixLength(bytes);
        break;
      case 5: {
        const std::string piece = kPieces[Below(std::size(kPieces))];
        bytes.replace(at, piece.size(), piece);
        break;
      }
    }
  }

  // Keeps the header's length in step with the file's: otherwise the data would
  // begin at the wrong place, and nothing behind that check would be reached.
  static void FixLength(std::string& bytes) {
    if (bytes.size() < 8 + 194) return;
    const size_t length = bytes.size() - 8 - 194;
    bytes[0] = static_cast<char>(length & 0xFF);
    bytes[1] = static_cast<char>(length >> 8);
  }

  std::mt19937 random_;
};

// Parses a copy of exactly the right size, so that AddressSanitizer sees a read
// behind it; reads all that was accepted.
bool Accepts(const std::string& bytes) {
  const auto owner =
      std::make_shared<std::unique_ptr<uint8_t[]>>(new uint8_t[bytes.size()]);
  std::copy(bytes.begin(), bytes.end(), owner->get());
  const auto file = SafetensorsFile::Parse(
      owner, absl::MakeConstSpan(owner->get(), bytes.size()), "mutant", {});
  if (!file.ok()) {
    EXPECT_EQ(GetErrorReason(file.status()), ErrorReason::kAdapterCorrupt);
    return false;
  }
  size_t total = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    EXPECT_EQ(tensor.bytes.size(),
              tensor.num_elements() * TensorDtypeSize(tensor.dtype));
    // A look at every byte, for AddressSanitizer.
    EXPECT_LE(
        std::accumulate(tensor.bytes.begin(), tensor.bytes.end(), size_t{0}),
        255 * tensor.bytes.size());
    total += tensor.bytes.size();
  }
  EXPECT_LT(total, bytes.size());
  return true;
}

TEST(SafetensorsMutationTest, MutantsAreParsedOrRefused) {
  const std::string valid = ValidFile();
  ASSERT_TRUE(Accepts(valid));
  Mutator mutator(1);
  int accepted = 0;
  for (int i = 0; i < kMutants; ++i) {
    if (Accepts(mutator.Mutate(valid))) ++accepted;
  }
  // Both ways are taken: a change in the data, say, is no fault.
  EXPECT_GT(accepted, kMutants / 100);
  EXPECT_LT(accepted, kMutants);
}

}  // namespace
}  // namespace graft

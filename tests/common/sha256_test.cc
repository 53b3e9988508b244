#include "server/common/sha256.h"

#include <string>

#include "gtest/gtest.h"

namespace graft {
namespace {

// Test vectors of FIPS 180-4 (NIST's examples).
TEST(Sha256Test, MatchesPublishedVectors) {
  EXPECT_EQ(Sha256Hex("", 0),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc", 3),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1000000, 'a');
  EXPECT_EQ(Sha256Hex(million.data(), million.size()),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, PiecesGiveTheDigestOfTheWhole) {
  const std::string text = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnop";
  for (size_t cut = 0; cut <= text.size(); ++cut) {
    Sha256 hash;
    hash.Update(text.substr(0, cut));
    hash.Update(text.data() + cut, text.size() - cut);
    EXPECT_EQ(hash.HexDigest(), Sha256Hex(text.data(), text.size()));
  }
}

}  // namespace
}  // namespace graft

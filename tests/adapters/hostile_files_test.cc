// Files that must be refused, each with its reason: damaged, contradictory,
// made for something else, or of an algorithm that is not implemented.

#include "tests/adapters/hostile_files.h"

#include <ostream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_parser.h"
#include "server/common/error.h"
#include "tests/adapters/parse_bytes.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"

namespace graft {

void PrintTo(const HostileFile& file, std::ostream* os) { *os << file.what; }

namespace {

using Reason = ErrorReason;

class HostileFileTest : public testing::TestWithParam<HostileFile> {};

TEST_P(HostileFileTest, IsRefusedWithItsReason) {
  EXPECT_THAT(
      ParseBytes(FakeEngine::TinyModules(), GetParam().bytes),
      HasReason(GetParam().reason, testing::HasSubstr(GetParam().message)));
}

// What is wrong with these is more than a part that does not fit.
TEST_P(HostileFileTest, IsRefusedAsAPartialLoadTooUnlessItIsOne) {
  const auto parsed = ParseBytes(FakeEngine::TinyModules(), GetParam().bytes,
                                 {.allow_partial = true});
  const bool may_fit_in_part =
      GetParam().reason == Reason::kAdapterBaseMismatch ||
      GetParam().reason == Reason::kAdapterKindUnsupported ||
      GetParam().reason == Reason::kAdapterKeysUnmatched;
  if (may_fit_in_part && parsed.ok()) {
    EXPECT_GT(parsed->report.keys.unmatched, 0);
  } else {
    EXPECT_THAT(parsed, HasReason(GetParam().reason));
  }
}

std::string Name(const testing::TestParamInfo<HostileFile>& info) {
  return info.param.what;
}

INSTANTIATE_TEST_SUITE_P(Damaged, HostileFileTest,
                         testing::ValuesIn(DamagedFiles()), Name);
INSTANTIATE_TEST_SUITE_P(Contradictory, HostileFileTest,
                         testing::ValuesIn(ContradictoryFiles()), Name);
INSTANTIATE_TEST_SUITE_P(NonFinite, HostileFileTest,
                         testing::ValuesIn(NonFiniteFiles()), Name);
INSTANTIATE_TEST_SUITE_P(DoesNotFit, HostileFileTest,
                         testing::ValuesIn(FilesThatDoNotFit()), Name);
INSTANTIATE_TEST_SUITE_P(OtherAlgorithms, HostileFileTest,
                         testing::ValuesIn(FilesOfOtherAlgorithms()), Name);
INSTANTIATE_TEST_SUITE_P(Unsupported, HostileFileTest,
                         testing::ValuesIn(UnsupportedFiles()), Name);

TEST(HostileFilesTest, TheUnspoiltFileIsAccepted) {
  EXPECT_THAT(ParseBytes(FakeEngine::TinyModules(), UnspoiltFile()), IsOk());
}

}  // namespace
}  // namespace graft

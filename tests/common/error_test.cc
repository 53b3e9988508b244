#include "server/common/error.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Code = absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Optional;
using ::testing::Pair;

struct TableRow {
  ErrorReason reason;
  absl::string_view name;
  Code code;
};

// The documented error table, written out again: clients depend on it.
constexpr TableRow kErrorTable[] = {
    {ErrorReason::kInvalidField, "INVALID_FIELD", Code::kInvalidArgument},
    {ErrorReason::kTokenInvalid, "TOKEN_INVALID", Code::kUnauthenticated},
    {ErrorReason::kRoleNotAllowed, "ROLE_NOT_ALLOWED", Code::kPermissionDenied},
    {ErrorReason::kAdapterDirNotSet, "ADAPTER_DIR_NOT_SET",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterDirReadOnly, "ADAPTER_DIR_READ_ONLY",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterTooLarge, "ADAPTER_TOO_LARGE",
     Code::kResourceExhausted},
    {ErrorReason::kAdapterNotFound, "ADAPTER_NOT_FOUND", Code::kNotFound},
    {ErrorReason::kAdapterConflict, "ADAPTER_CONFLICT", Code::kAlreadyExists},
    {ErrorReason::kAdapterVersionMismatch, "ADAPTER_VERSION_MISMATCH",
     Code::kAborted},
    {ErrorReason::kAdapterBaseMismatch, "ADAPTER_BASE_MISMATCH",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterKeysUnmatched, "ADAPTER_KEYS_UNMATCHED",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterKindUnsupported, "ADAPTER_KIND_UNSUPPORTED",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterCorrupt, "ADAPTER_CORRUPT",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterNonFinite, "ADAPTER_NON_FINITE",
     Code::kFailedPrecondition},
    {ErrorReason::kAdapterInUse, "ADAPTER_IN_USE", Code::kFailedPrecondition},
    {ErrorReason::kAdapterPinned, "ADAPTER_PINNED", Code::kFailedPrecondition},
    {ErrorReason::kPathNotAllowed, "PATH_NOT_ALLOWED", Code::kPermissionDenied},
    {ErrorReason::kQuota, "QUOTA", Code::kResourceExhausted},
    {ErrorReason::kAdapterCacheFull, "ADAPTER_CACHE_FULL",
     Code::kResourceExhausted},
    {ErrorReason::kGpuOutOfMemory, "GPU_OUT_OF_MEMORY",
     Code::kResourceExhausted},
    {ErrorReason::kQueueFull, "QUEUE_FULL", Code::kUnavailable},
    {ErrorReason::kStarting, "STARTING", Code::kUnavailable},
    {ErrorReason::kDraining, "DRAINING", Code::kUnavailable},
    {ErrorReason::kDeadlineInQueue, "DEADLINE_IN_QUEUE",
     Code::kDeadlineExceeded},
    {ErrorReason::kDeadlineRunning, "DEADLINE_RUNNING",
     Code::kDeadlineExceeded},
    {ErrorReason::kClientCancelled, "CLIENT_CANCELLED", Code::kCancelled},
    {ErrorReason::kAdminCancelled, "ADMIN_CANCELLED", Code::kCancelled},
    {ErrorReason::kBaseWeightsDrift, "BASE_WEIGHTS_DRIFT", Code::kDataLoss},
    {ErrorReason::kNonFiniteLatents, "NON_FINITE_LATENTS", Code::kInternal},
    {ErrorReason::kModelUnsupported, "MODEL_UNSUPPORTED",
     Code::kFailedPrecondition},
    {ErrorReason::kInternal, "INTERNAL", Code::kInternal},
};

class ErrorTableTest : public testing::TestWithParam<TableRow> {};

TEST_P(ErrorTableTest, ReasonGivesNameAndCode) {
  const TableRow& row = GetParam();
  EXPECT_EQ(ErrorReasonName(row.reason), row.name);
  EXPECT_EQ(ErrorReasonCode(row.reason), row.code);
}

TEST_P(ErrorTableTest, ErrorCarriesItsReason) {
  const TableRow& row = GetParam();
  const absl::Status status = Error(row.reason, "what to do");
  EXPECT_THAT(status, StatusIs(row.code, "what to do"));
  EXPECT_THAT(GetErrorReason(status), Optional(row.reason));
}

INSTANTIATE_TEST_SUITE_P(EveryReason, ErrorTableTest,
                         testing::ValuesIn(kErrorTable), [](const auto& info) {
                           return std::string(info.param.name);
                         });

// kInternal stands last in the enum: a reason added without its row shows here.
TEST(ErrorTest, TableIsComplete) {
  EXPECT_EQ(std::size(kErrorTable),
            static_cast<size_t>(ErrorReason::kInternal) + 1);
  std::set<std::string> names;
  for (size_t i = 0; i < std::size(kErrorTable); ++i) {
    EXPECT_EQ(static_cast<size_t>(kErrorTable[i].reason), i);
    names.emplace(ErrorReasonName(static_cast<ErrorReason>(i)));
  }
  EXPECT_EQ(names.size(), std::size(kErrorTable));
}

TEST(ErrorTest, MetadataKeepsOrderDuplicatesAndOddBytes) {
  const ErrorMetadata metadata = {{"tensor", "a:b=1\n\"\\"},
                                  {"", ""},
                                  {"tensor", std::string("\0:3:", 4)},
                                  {"\xff\xfe", "\xed\xa0\x80"},
                                  {"long", std::string(100000, '7')}};
  EXPECT_EQ(GetErrorMetadata(Error(ErrorReason::kInternal, "", metadata)),
            metadata);
}

TEST(ErrorTest, NoMetadataReadsAsEmpty) {
  EXPECT_THAT(GetErrorMetadata(Error(ErrorReason::kInternal, "x")), IsEmpty());
  EXPECT_THAT(GetErrorMetadata(absl::InternalError("x")), IsEmpty());
}

TEST(ErrorTest, ForeignStatusHasNoReason) {
  EXPECT_EQ(GetErrorReason(absl::NotFoundError("x")), std::nullopt);
  EXPECT_EQ(GetErrorReason(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(GetRetryDelay(absl::UnavailableError("x")), std::nullopt);
}

TEST(ErrorTest, InvalidFieldNamesTheField) {
  const absl::Status status = InvalidField("params.width", "must be even");
  EXPECT_THAT(status, HasReason(ErrorReason::kInvalidField,
                                "params.width: must be even"));
  EXPECT_THAT(GetErrorMetadata(status),
              ElementsAre(Pair("field", "params.width")));
}

TEST(ErrorTest, RetryDelayIsAddedToTheSameError) {
  const absl::Status status =
      WithRetryDelay(Error(ErrorReason::kQueueFull, "full", {{"queued", "8"}}),
                     absl::Milliseconds(1500));
  EXPECT_THAT(status, HasReason(ErrorReason::kQueueFull, "full"));
  EXPECT_THAT(GetErrorMetadata(status), ElementsAre(Pair("queued", "8")));
  EXPECT_THAT(GetRetryDelay(status), Optional(absl::Milliseconds(1500)));
}

TEST(ErrorTest, MessageIsAlwaysValidUtf8) {
  EXPECT_EQ(Error(ErrorReason::kInternal, "a\xff\nb").message(),
            "a\\xff\\x0ab");
}

TEST(ErrorTest, MessageHasABound) {
  const absl::Status status =
      Error(ErrorReason::kInternal, std::string(1000000, 'x'));
  EXPECT_LT(status.message().size(), 5000u);
}

struct EscapeCase {
  std::string text;
  std::string escaped;
};

class EscapeUntrustedTest : public testing::TestWithParam<EscapeCase> {};

TEST_P(EscapeUntrustedTest, Escapes) {
  EXPECT_EQ(EscapeUntrusted(GetParam().text), GetParam().escaped);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, EscapeUntrustedTest,
    testing::Values(
        EscapeCase{"", ""}, EscapeCase{"plain ~", "plain ~"},
        EscapeCase{"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80",
                   "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"},
        EscapeCase{std::string("a\0b", 3), "a\\x00b"},
        EscapeCase{"\r\n\t\x1b[31m\x7f", "\\x0d\\x0a\\x09\\x1b[31m\\x7f"},
        EscapeCase{"\xc2\x9b", "\\xc2\\x9b"},           // C1 control
        EscapeCase{"\xc2\xa0", "\xc2\xa0"},             // the first after C1
        EscapeCase{"\xff\xfe", "\\xff\\xfe"},           // never valid
        EscapeCase{"\x80", "\\x80"},                    // lone continuation
        EscapeCase{"\xc3", "\\xc3"},                    // cut at the end
        EscapeCase{"\xe2\x82", "\\xe2\\x82"},           // cut at the end
        EscapeCase{"\xc3(", "\\xc3("},                  // cut in the middle
        EscapeCase{"\xc0\xaf", "\\xc0\\xaf"},           // overlong, 2 bytes
        EscapeCase{"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},  // overlong, 3 bytes
        EscapeCase{"\xf0\x80\x80\xaf", "\\xf0\\x80\\x80\\xaf"},  // overlong, 4
        EscapeCase{"\xed\xa0\x80", "\\xed\\xa0\\x80"},           // surrogate
        EscapeCase{"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"}));

TEST(EscapeUntrustedTest, CutsLongTextAtACharacter) {
  EXPECT_EQ(EscapeUntrusted("\xc3\xbc\xc3\xbc\xc3\xbc", 3),
            "\xc3\xbc\xc3\xbc...");
  EXPECT_EQ(EscapeUntrusted("abc", 3), "abc");
}

// The matchers themselves: each must be able to fail.
TEST(StatusMatchersTest, TellsStatusesApart) {
  const absl::Status status = Error(ErrorReason::kQuota, "too many \"x\"");
  EXPECT_THAT(status, Not(IsOk()));
  EXPECT_THAT(status, StatusIs(Code::kResourceExhausted, HasSubstr("\"x\"")));
  EXPECT_THAT(status, Not(StatusIs(Code::kResourceExhausted, "too many")));
  EXPECT_THAT(status, Not(StatusIs(Code::kNotFound)));
  EXPECT_THAT(status, HasReason(ErrorReason::kQuota));
  EXPECT_THAT(status, Not(HasReason(ErrorReason::kAdapterCacheFull)));
  EXPECT_THAT(status, Not(HasReason(ErrorReason::kQuota, "other")));
  EXPECT_THAT(absl::ResourceExhaustedError("too many \"x\""),
              Not(HasReason(ErrorReason::kQuota)));
}

TEST(StatusMatchersTest, LooksIntoStatusOr) {
  const absl::StatusOr<int> value = 4;
  EXPECT_THAT(value, IsOk());
  EXPECT_THAT(value, IsOkAndHolds(4));
  EXPECT_THAT(value, Not(IsOkAndHolds(5)));
  const absl::StatusOr<int> error = Error(ErrorReason::kQuota, "x");
  EXPECT_THAT(error, Not(IsOk()));
  EXPECT_THAT(error, Not(IsOkAndHolds(4)));
  EXPECT_THAT(error, HasReason(ErrorReason::kQuota, "x"));
}

}  // namespace
}  // namespace graft

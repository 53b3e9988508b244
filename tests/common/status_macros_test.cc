#include "server/common/status_macros.h"

#include <memory>
#include <utility>

#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

absl::StatusOr<std::unique_ptr<int>> Make(bool ok) {
  if (!ok) return absl::NotFoundError("none");
  return std::make_unique<int>(3);
}

absl::Status ReturnIfError(const absl::Status& status, bool& reached) {
  GRAFT_RETURN_IF_ERROR(status);
  reached = true;
  return absl::OkStatus();
}

absl::StatusOr<int> AssignTwice(bool first, bool second) {
  GRAFT_ASSIGN_OR_RETURN(std::unique_ptr<int> a, Make(first));
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<int> b, Make(second));
  GRAFT_ASSIGN_OR_RETURN(a, Make(true));
  return *a + *b;
}

TEST(StatusMacrosTest, ReturnIfErrorReturnsTheError) {
  bool reached = false;
  EXPECT_THAT(ReturnIfError(absl::NotFoundError("x"), reached),
              StatusIs(absl::StatusCode::kNotFound, "x"));
  EXPECT_FALSE(reached);
}

TEST(StatusMacrosTest, ReturnIfErrorGoesOnWhenOk) {
  bool reached = false;
  EXPECT_THAT(ReturnIfError(absl::OkStatus(), reached), IsOk());
  EXPECT_TRUE(reached);
}

TEST(StatusMacrosTest, AssignOrReturnMovesTheValueOut) {
  EXPECT_THAT(AssignTwice(true, true), IsOkAndHolds(6));
}

TEST(StatusMacrosTest, AssignOrReturnReturnsTheError) {
  EXPECT_THAT(AssignTwice(true, false),
              StatusIs(absl::StatusCode::kNotFound, "none"));
}

}  // namespace
}  // namespace graft

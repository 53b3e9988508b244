#include "server/rpc/rpc_context.h"

#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::IsEmpty;
using testing::MatchesRegex;

TEST(RpcContextTest, RequestIdsAreRandomUuids) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = NewRequestId();
    EXPECT_THAT(id, MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-"
                                 "[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
    EXPECT_TRUE(ids.insert(id).second) << id;
  }
}

TEST(RpcContextTest, ValidTraceparentIsKept) {
  const std::string header =
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  EXPECT_EQ(ParseTraceparent(header), header);
}

TEST(RpcContextTest, InvalidTraceparentIsIgnored) {
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const std::string span = "00f067aa0ba902b7";
  EXPECT_THAT(ParseTraceparent(""), IsEmpty());
  EXPECT_THAT(ParseTraceparent("junk"), IsEmpty());
  EXPECT_THAT(ParseTraceparent("01-" + trace + "-" + span + "-01"), IsEmpty());
  EXPECT_THAT(ParseTraceparent("00-" + trace + "-" + span), IsEmpty());
  EXPECT_THAT(ParseTraceparent("00-" + trace + "0-" + span + "-01"), IsEmpty());
  EXPECT_THAT(ParseTraceparent("00-" + trace + "-" + span + "-0G"), IsEmpty());
  EXPECT_THAT(
      ParseTraceparent("00-" + std::string(32, '0') + "-" + span + "-01"),
      IsEmpty());
  EXPECT_THAT(
      ParseTraceparent("00-" + trace + "-" + std::string(16, '0') + "-01"),
      IsEmpty());
  EXPECT_THAT(
      ParseTraceparent("00-4BF92F3577B34DA6A3CE929D0E0E4736-" + span + "-01"),
      IsEmpty());
}

}  // namespace
}  // namespace graft

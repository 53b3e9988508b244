#include "server/rpc/listen_socket.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

TEST(ListenSocketTest, PortZeroPicksAFreeOne) {
  const auto socket = ListenSocket::Bind("127.0.0.1:0");
  ASSERT_THAT(socket, IsOk());
  EXPECT_THAT(socket->address(), MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
}

TEST(ListenSocketTest, TakenPortIsInUse) {
  const auto first = ListenSocket::Bind("127.0.0.1:0");
  ASSERT_THAT(first, IsOk());
  EXPECT_THAT(ListenSocket::Bind(first->address()),
              HasReason(ErrorReason::kInvalidField, HasSubstr("in use")));
}

TEST(ListenSocketTest, PortIsFreeAgainAfterwards) {
  std::string address;
  {
    const auto socket = ListenSocket::Bind("127.0.0.1:0");
    ASSERT_THAT(socket, IsOk());
    address = socket->address();
  }
  EXPECT_THAT(ListenSocket::Bind(address), IsOk());
}

TEST(ListenSocketTest, MalformedAddressesAreRefused) {
  for (const char* const address :
       {"", "50051", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
        "127.0.0.1:-1", "127.0.0.1:65536", "::1:50051", "[::1:50051"}) {
    EXPECT_THAT(ListenSocket::Bind(address),
                HasReason(ErrorReason::kInvalidField))
        << address;
  }
}

TEST(ListenSocketTest, AddressOfAnotherMachineIsRefused) {
  EXPECT_THAT(ListenSocket::Bind("192.0.2.1:0"),  // TEST-NET-1: nobody's
              HasReason(ErrorReason::kInvalidField, HasSubstr("192.0.2.1")));
}

TEST(ListenSocketTest, KnowsLoopbackAddresses) {
  EXPECT_THAT(IsLoopbackAddress("127.0.0.1:1"), IsOkAndHolds(true));
  EXPECT_THAT(IsLoopbackAddress("127.9.8.7:1"), IsOkAndHolds(true));
  EXPECT_THAT(IsLoopbackAddress("[::1]:1"), IsOkAndHolds(true));
  EXPECT_THAT(IsLoopbackAddress("localhost:1"), IsOkAndHolds(true));
  EXPECT_THAT(IsLoopbackAddress("0.0.0.0:1"), IsOkAndHolds(false));
  EXPECT_THAT(IsLoopbackAddress("[::]:1"), IsOkAndHolds(false));
  EXPECT_THAT(IsLoopbackAddress("192.0.2.1:1"), IsOkAndHolds(false));
}

}  // namespace
}  // namespace graft

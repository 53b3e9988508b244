#include "client/client_status.h"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

grpc::Status WithDetails(const google::rpc::Status& details) {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "full\nup",
                      details.SerializeAsString());
}

TEST(ClientStatusTest, KeepsReasonAndRetryDelay) {
  google::rpc::ErrorInfo info;
  info.set_reason("QUEUE_FULL");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(1);
  retry.mutable_retry_delay()->set_nanos(500'000'000);
  google::rpc::Status details;
  details.add_details()->PackFrom(info);
  details.add_details()->PackFrom(retry);

  const absl::Status status = FromGrpcStatus(WithDetails(details));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorReasonOf(status), "QUEUE_FULL");
  EXPECT_EQ(RetryDelayOf(status), absl::Milliseconds(1500));
  EXPECT_EQ(DescribeError(status), "UNAVAILABLE QUEUE_FULL: full up");
}

TEST(ClientStatusTest, ErrorWithoutDetailsHasNoReason) {
  const absl::Status status = FromGrpcStatus(
      grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "too late"));
  EXPECT_EQ(DescribeError(status), "DEADLINE_EXCEEDED NO_REASON: too late");
  EXPECT_EQ(RetryDelayOf(status), std::nullopt);
}

TEST(ClientStatusTest, JunkDetailsAreNoReason) {
  const absl::Status status = FromGrpcStatus(
      grpc::Status(grpc::StatusCode::INTERNAL, "?", "\xFF\xFF\xFF"));
  EXPECT_EQ(ErrorReasonOf(status), "NO_REASON");
}

TEST(ClientStatusTest, OkIsOk) {
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

}  // namespace
}  // namespace graft

#include "server/rpc/grpc_status_util.h"

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"
#include "server/common/error.h"

namespace graft {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Le;
using testing::SizeIs;

google::rpc::Status Details(const grpc::Status& status) {
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  return details;
}

// The detail of one type, if there is one; two are an error.
template <typename Message>
std::optional<Message> Find(const grpc::Status& status) {
  std::optional<Message> found;
  const google::rpc::Status details = Details(status);
  for (const google::protobuf::Any& detail : details.details()) {
    Message message;
    if (!detail.UnpackTo(&message)) continue;
    EXPECT_FALSE(found.has_value()) << "twice: " << message.GetTypeName();
    found = message;
  }
  return found;
}

TEST(GrpcStatusUtilTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(GrpcStatusUtilTest, EveryErrorHasCodeMessageAndErrorInfo) {
  const grpc::Status status = ToGrpcStatus(
      Error(ErrorReason::kAdapterCorrupt, "cut off", {{"tensor", "a.weight"}}));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "cut off");
  EXPECT_EQ(Details(status).code(), status.error_code());
  EXPECT_EQ(Details(status).message(), "cut off");
  const auto info = Find<google::rpc::ErrorInfo>(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "ADAPTER_CORRUPT");
  EXPECT_EQ(info->domain(), "graft");
  EXPECT_EQ(info->metadata().at("tensor"), "a.weight");
}

TEST(GrpcStatusUtilTest, BadFieldHasItsViolation) {
  const auto bad = Find<google::rpc::BadRequest>(
      ToGrpcStatus(InvalidField("steps", "too many")));
  ASSERT_TRUE(bad.has_value());
  ASSERT_THAT(bad->field_violations(), SizeIs(1));
  EXPECT_EQ(bad->field_violations(0).field(), "steps");
  EXPECT_EQ(bad->field_violations(0).description(), "steps: too many");
}

TEST(GrpcStatusUtilTest, MissingAdapterIsAResource) {
  const auto resource = Find<google::rpc::ResourceInfo>(ToGrpcStatus(
      Error(ErrorReason::kAdapterNotFound, "not loaded",
            {{"resource_type", "Adapter"}, {"resource_name", "ink"}})));
  ASSERT_TRUE(resource.has_value());
  EXPECT_EQ(resource->resource_type(), "Adapter");
  EXPECT_EQ(resource->resource_name(), "ink");
}

TEST(GrpcStatusUtilTest, PreconditionsAndQuotasHaveTheirDetails) {
  const auto precondition = Find<google::rpc::PreconditionFailure>(
      ToGrpcStatus(Error(ErrorReason::kAdapterInUse, "in use")));
  ASSERT_TRUE(precondition.has_value());
  EXPECT_EQ(precondition->violations(0).type(), "ADAPTER_IN_USE");
  const auto quota = Find<google::rpc::QuotaFailure>(
      ToGrpcStatus(Error(ErrorReason::kGpuOutOfMemory, "full")));
  ASSERT_TRUE(quota.has_value());
  EXPECT_EQ(quota->violations(0).subject(), "GPU_OUT_OF_MEMORY");
}

TEST(GrpcStatusUtilTest, RetryDelayIsCarried) {
  const auto retry = Find<google::rpc::RetryInfo>(ToGrpcStatus(WithRetryDelay(
      Error(ErrorReason::kQueueFull, "full"), absl::Milliseconds(1500))));
  ASSERT_TRUE(retry.has_value());
  EXPECT_EQ(retry->retry_delay().seconds(), 1);
  EXPECT_EQ(retry->retry_delay().nanos(), 500'000'000);
}

TEST(GrpcStatusUtilTest, WhatMayFitLaterIsWorthASecondTry) {
  const auto may_retry = [](const absl::Status& status) {
    return Find<google::rpc::RetryInfo>(ToGrpcStatus(status)).has_value();
  };
  EXPECT_TRUE(may_retry(Error(ErrorReason::kQuota, "full")));
  EXPECT_TRUE(may_retry(Error(ErrorReason::kGpuOutOfMemory, "full")));
  EXPECT_TRUE(
      may_retry(Error(ErrorReason::kAdapterCacheFull, "full",
                      {{"wanted_bytes", "10"}, {"limit_bytes", "10"}})));
  EXPECT_FALSE(
      may_retry(Error(ErrorReason::kAdapterCacheFull, "never",
                      {{"wanted_bytes", "11"}, {"limit_bytes", "10"}})));
  EXPECT_FALSE(may_retry(Error(ErrorReason::kAdapterTooLarge, "never")));
}

TEST(GrpcStatusUtilTest, StatusWithoutReasonIsOurBug) {
  const grpc::Status status = ToGrpcStatus(absl::UnknownError("what?"));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNKNOWN);
  EXPECT_EQ(Find<google::rpc::ErrorInfo>(status)->reason(), "INTERNAL");
}

// Clients drop trailers above 8 KiB, and the error with them.
TEST(GrpcStatusUtilTest, LongErrorsFitTheTrailers) {
  ErrorMetadata metadata;
  for (int i = 0; i < 20; ++i) {
    metadata.emplace_back("key" + std::to_string(i), std::string(1000, 'x'));
  }
  metadata.emplace_back("field", "prompt");
  std::string message;
  while (message.size() < 100'000) message += "\xC3\xA9";  // é
  const grpc::Status status =
      ToGrpcStatus(Error(ErrorReason::kInvalidField, message, metadata));
  // Percent-encoded, and in base64.
  EXPECT_THAT(
      status.error_message().size() * 3 + status.error_details().size() * 4 / 3,
      Le(7500u));
  EXPECT_THAT(status.error_message(), EndsWith("\xC3\xA9..."));
}

TEST(GrpcStatusUtilTest, MessagesAreValidUtf8) {
  const grpc::Status status =
      ToGrpcStatus(absl::InternalError("bad \xFF byte"));
  EXPECT_THAT(status.error_message(), HasSubstr("\\xff"));
}

}  // namespace
}  // namespace graft

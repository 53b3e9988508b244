// VerifyBaseWeights, and what the daemon does when the base is damaged.

#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "graft/v1/admin.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/engine/device_lost.h"
#include "tests/integration/health_client.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const char* const kServices[] = {"", "graft.v1.GenerationService",
                                 "graft.v1.AdapterService",
                                 "graft.v1.AdminService"};

class VerifyTest : public testing::Test {
 protected:
  VerifyTest()
      : channel_(daemon_.NewChannel()),
        admin_(v1::AdminService::NewStub(channel_)) {}

  v1::VerifyBaseWeightsResponse Verify(bool repair) {
    v1::VerifyBaseWeightsRequest request;
    request.set_repair(repair);
    v1::VerifyBaseWeightsResponse response;
    grpc::ClientContext context;
    const grpc::Status status =
        admin_->VerifyBaseWeights(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  void ExpectHealth(Health health) {
    for (const char* const service : kServices) {
      EXPECT_EQ(CheckHealth(channel_, service), health) << service;
    }
  }

  // Waits until health says so.
  void AwaitHealth(Health health) {
    while (CheckHealth(channel_, "") != health) continue;
  }

  InProcessDaemon daemon_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
};

TEST_F(VerifyTest, IntactWeightsAreReported) {
  const v1::VerifyBaseWeightsResponse report = Verify(/*repair=*/false);
  EXPECT_GT(report.parameters(), 0);
  EXPECT_THAT(report.differing(), IsEmpty());
  EXPECT_THAT(report.unrepaired(), IsEmpty());
  EXPECT_FALSE(report.repaired());
  ExpectHealth(Health::kServing);
}

TEST_F(VerifyTest, RepairIsReportedWithTheNames) {
  daemon_.engine().SetDrift({"a", "b"}, /*repairable=*/true);
  const v1::VerifyBaseWeightsResponse report = Verify(/*repair=*/true);
  EXPECT_THAT(report.differing(), ElementsAre("a", "b"));
  EXPECT_THAT(report.unrepaired(), IsEmpty());
  EXPECT_TRUE(report.repaired());
  ExpectHealth(Health::kServing);
  EXPECT_THAT(Verify(/*repair=*/false).differing(), IsEmpty());
}

// Between the report and the repair, nobody is served by damaged weights.
TEST_F(VerifyTest, DamageTurnsHealthUntilTheDaemonHasRepairedIt) {
  daemon_.engine().SetDrift({"a"}, /*repairable=*/true);
  daemon_.engine().Block(Call::kVerify);
  daemon_.engine().LetOneThrough(Call::kVerify);
  const v1::VerifyBaseWeightsResponse report = Verify(/*repair=*/false);
  EXPECT_THAT(report.differing(), ElementsAre("a"));
  EXPECT_THAT(report.unrepaired(), ElementsAre("a"));
  EXPECT_FALSE(report.repaired());
  ExpectHealth(Health::kNotServing);

  daemon_.engine().Unblock(Call::kVerify);
  AwaitHealth(Health::kServing);
  ExpectHealth(Health::kServing);
  EXPECT_THAT(Verify(/*repair=*/false).differing(), IsEmpty());
}

TEST_F(VerifyTest, DamageBeyondRepairStopsTheDaemon) {
  daemon_.engine().SetDrift({"a"}, /*repairable=*/false);
  const v1::VerifyBaseWeightsResponse report = Verify(/*repair=*/true);
  EXPECT_THAT(report.unrepaired(), ElementsAre("a"));
  EXPECT_FALSE(report.repaired());
  ExpectHealth(Health::kNotServing);
  EXPECT_THAT(daemon_.daemon().WaitForStop(),
              HasReason(ErrorReason::kBaseWeightsDrift, HasSubstr("a")));
  daemon_.Stop();
}

// As after damage beyond repair: another process can go on.
TEST_F(VerifyTest, ALostDeviceStopsTheDaemon) {
  daemon_.engine().Fail(Call::kStep, DeviceLostError("illegal address"));
  const auto generation = v1::GenerationService::NewStub(channel_);
  const auto generate = [&generation] {
    v1::GenerateImageRequest request;
    request.set_steps(1);
    grpc::ClientContext context;
    const auto reader = generation->GenerateImage(&context, request);
    v1::GenerateImageResponse response;
    while (reader->Read(&response)) continue;
    return ReasonOf(reader->Finish());
  };
  EXPECT_EQ(generate(), "INTERNAL");
  EXPECT_TRUE(IsDeviceLost(daemon_.daemon().WaitForStop()));
  ExpectHealth(Health::kNotServing);
  EXPECT_EQ(generate(), "DRAINING");
}

TEST_F(VerifyTest, DamageFoundAtASwitchIsRepaired) {
  daemon_.engine().SetDrift({"a"}, /*repairable=*/true);
  daemon_.engine().Fail(Call::kSwitch, Error(ErrorReason::kBaseWeightsDrift,
                                             "memory is at fault"));
  daemon_.engine().Block(Call::kVerify);
  v1::GenerateImageRequest request;
  request.set_steps(1);
  grpc::ClientContext context;
  const auto reader = v1::GenerationService::NewStub(channel_)->GenerateImage(
      &context, request);
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kVerify));
  ExpectHealth(Health::kNotServing);
  daemon_.engine().Fail(Call::kSwitch, absl::OkStatus());
  daemon_.engine().Unblock(Call::kVerify);
  AwaitHealth(Health::kServing);
  v1::GenerateImageResponse event;
  while (reader->Read(&event)) continue;
  EXPECT_EQ(ReasonOf(reader->Finish()), "BASE_WEIGHTS_DRIFT");
}

TEST_F(VerifyTest, EnginesErrorIsTheAnswer) {
  daemon_.engine().Fail(Call::kVerify,
                        Error(ErrorReason::kInternal, "the file is gone"));
  v1::VerifyBaseWeightsResponse response;
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(admin_->VerifyBaseWeights(
                &context, v1::VerifyBaseWeightsRequest(), &response)),
            "INTERNAL");
  ExpectHealth(Health::kServing);
}

}  // namespace
}  // namespace graft

#include "server/daemon_options.h"

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/rpc/certificates.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Pair;

class DaemonOptionsTest : public testing::Test {
 protected:
  DaemonOptionsTest() { options_.engine.model_dir = folder_.path(); }

  TempDir folder_;
  DaemonOptions options_;
};

TEST_F(DaemonOptionsTest, DefaultsAreValid) {
  EXPECT_THAT(ValidateDaemonOptions(options_), IsOk());
}

struct BadOption {
  std::function<void(DaemonOptions&)> change;
  std::string flag;
};

TEST_F(DaemonOptionsTest, WrongOptionsNameTheirFlag) {
  const BadOption kBad[] = {
      {[](auto& o) { o.engine.model_dir = "/nowhere"; }, "model"},
      {[](auto& o) { o.adapter_dir = "/nowhere"; }, "adapter_dir"},
      {[](auto& o) { o.engine.device = "tpu"; }, "device"},
      {[](auto& o) { o.engine.device = "cuda:"; }, "device"},
      {[](auto& o) { o.engine.device = "cuda:-1"; }, "device"},
      {[](auto& o) { o.engine.threads = -1; }, "threads"},
      {[](auto& o) { o.transport.listen = "nonsense"; }, "listen"},
      {[](auto& o) { o.transport.listen = "0.0.0.0:0"; }, "listen"},
      {[](auto& o) { o.transport.max_connections = -1; }, "max_connections"},
      {[](auto& o) { o.limits.max_steps = 0; }, "max_steps"},
      {[](auto& o) { o.limits.min_side = 0; }, "min_side"},
      {[](auto& o) { o.limits.min_side = 4096; }, "min_side"},
      {[](auto& o) { o.limits.max_side = 1 << 20; }, "max_side"},
      {[](auto& o) { o.limits.max_count = 0; }, "max_count"},
      {[](auto& o) { o.limits.max_adapters = -1; }, "max_adapters"},
      {[](auto& o) { o.limits.max_adapter_weight = -1; }, "max_adapter_weight"},
      {[](auto& o) { o.limits.max_guidance_scale = 1e9; },
       "max_guidance_scale"},
      {[](auto& o) { o.limits.max_prompt_bytes = 0; }, "max_prompt_bytes"},
      {[](auto& o) { o.max_finished_bytes = -1; }, "max_finished_bytes"},
      {[](auto& o) { o.progress_interval = -absl::Seconds(1); },
       "progress_interval"},
      {[](auto& o) { o.limits.max_message_bytes = 0; }, "max_message_bytes"},
      {[](auto& o) { o.limits.max_adapter_file_bytes = 0; },
       "max_adapter_file_bytes"},
      {[](auto& o) { o.limits.max_adapter_header_bytes = 0; },
       "max_adapter_header_bytes"},
      {[](auto& o) { o.limits.max_queued_requests = 0; },
       "max_queued_requests"},
      {[](auto& o) { o.limits.max_queued_work = 0; }, "max_queued_work"},
      {[](auto& o) { o.transport.tls.certificate = "/nowhere"; }, "tls_cert"},
      {[](auto& o) { o.transport.tls.key = "/nowhere"; }, "tls_key"},
      {[](auto& o) { o.transport.tls.client_ca = "/nowhere"; },
       "tls_client_ca"},
      {[](auto& o) { o.default_steps = 1001; }, "default_steps"},
      {[](auto& o) { o.default_guidance_scale = 101; },
       "default_guidance_scale"},
      {[](auto& o) { o.exit_timeout = -absl::Seconds(1); }, "exit_timeout"},
      {[](auto& o) { o.limits.min_side = o.limits.max_side = 100; },
       "min_side"},
      {[](auto& o) { o.transport.max_connection_age = absl::ZeroDuration(); },
       "max_connection_age"},
      {[](auto& o) {
         o.transport.max_connection_age_grace = -absl::Seconds(1);
       },
       "max_connection_age_grace"},
      {[](auto& o) { o.metrics_listen = "9464"; }, "metrics_listen"},
      {[](auto& o) { o.metrics_listen = ":9464"; }, "metrics_listen"},
      {[](auto& o) { o.metrics_listen = "127.0.0.1:1,2"; }, "metrics_listen"},
      {[](auto& o) { o.metrics_listen = "0.0.0.0:9464"; }, "metrics_listen"},
  };
  for (const BadOption& bad : kBad) {
    DaemonOptions options = options_;
    bad.change(options);
    const absl::Status status = ValidateDaemonOptions(options);
    EXPECT_THAT(status, HasReason(ErrorReason::kInvalidField,
                                  HasSubstr("--" + bad.flag)));
    EXPECT_THAT(GetErrorMetadata(status), Contains(Pair("field", bad.flag)));
  }
}

TEST_F(DaemonOptionsTest, OtherMachinesNeedAllowInsecure) {
  options_.transport.listen = "0.0.0.0:50051";
  EXPECT_THAT(
      ValidateDaemonOptions(options_),
      HasReason(ErrorReason::kInvalidField, HasSubstr("--allow_insecure")));
  options_.allow_insecure = true;
  EXPECT_THAT(ValidateDaemonOptions(options_), IsOk());
}

// There is no TLS for metrics that could stand for it.
TEST_F(DaemonOptionsTest, MetricsForOtherMachinesNeedAllowInsecure) {
  options_.metrics_listen = "0.0.0.0:9464";
  EXPECT_THAT(
      ValidateDaemonOptions(options_),
      HasReason(ErrorReason::kInvalidField, HasSubstr("--allow_insecure")));
  options_.allow_insecure = true;
  EXPECT_THAT(ValidateDaemonOptions(options_), IsOk());
  options_.allow_insecure = false;
  options_.metrics_listen = "[::1]:9464";
  EXPECT_THAT(ValidateDaemonOptions(options_), IsOk());
}

TEST_F(DaemonOptionsTest, ModelsOwnSizeMustBeAllowed) {
  EngineInfo model;
  model.default_width = 512;
  model.default_height = 768;
  options_.limits.max_side = 768;
  EXPECT_THAT(ValidateDefaultSize(model, options_.limits), IsOk());
  options_.limits.max_side = 760;
  EXPECT_THAT(ValidateDefaultSize(model, options_.limits),
              HasReason(ErrorReason::kInvalidField, HasSubstr("--max_side")));
}

TEST_F(DaemonOptionsTest, OtherMachinesMayComeWithTls) {
  const KeyPair pair = CertificateAuthority("graft test").Issue("localhost");
  options_.transport.listen = "0.0.0.0:50051";
  options_.transport.tls.certificate =
      folder_.Write("cert.pem", pair.certificate);
  options_.transport.tls.key = folder_.Write("key.pem", pair.key);
  EXPECT_THAT(ValidateDaemonOptions(options_), IsOk());
}

TEST_F(DaemonOptionsTest, SpellingsOfFlags) {
  EXPECT_THAT(ParseComputeDtype("bfloat16"),
              IsOkAndHolds(ComputeDtype::kBFloat16));
  EXPECT_THAT(ParseComputeDtype("int8"),
              HasReason(ErrorReason::kInvalidField,
                        HasSubstr("auto, float32, bfloat16, float16")));
  EXPECT_THAT(ParseRestoreMode("undo_log"),
              IsOkAndHolds(RestoreMode::kUndoLog));
  EXPECT_THAT(ParseRestoreMode("backup"), IsOkAndHolds(RestoreMode::kBackup));
  EXPECT_THAT(ParseRestoreMode("magic"),
              HasReason(ErrorReason::kInvalidField, HasSubstr("--restore")));
  EXPECT_THAT(ParseOnOff("batching", "on"), IsOkAndHolds(true));
  EXPECT_THAT(ParseOnOff("batching", "off"), IsOkAndHolds(false));
  EXPECT_THAT(ParseOnOff("batching", "yes"),
              HasReason(ErrorReason::kInvalidField, HasSubstr("--batching")));
  EXPECT_THAT(ParseLogLevel("warning"), IsOkAndHolds(LogLevel::kWarning));
  EXPECT_THAT(ParseLogLevel("loud"),
              HasReason(ErrorReason::kInvalidField, HasSubstr("--log_level")));
}

}  // namespace
}  // namespace graft

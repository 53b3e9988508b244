// The real graftd: flags, output, signals, descriptors.

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/sha256.h"
#include "tests/integration/daemon_process.h"
#include "tests/testing/loopback.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string EnvironmentOf(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/environ");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Runs for minutes.
v1::GenerateImageRequest LongRequest() {
  v1::GenerateImageRequest request;
  request.set_steps(1000);
  request.set_width(512);
  request.set_height(512);
  return request;
}

TEST(GraftdTest, ServesTheDemoModelWhenNoneIsGivenAndSaysSo) {
  DaemonProcess daemon(std::vector<std::string>{});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  const auto info = GraftClient({.server = daemon.address()}).GetServerInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(daemon.Stop(), 0);
  EXPECT_THAT(daemon.log(), HasSubstr("serving the demo model"));
  EXPECT_EQ(daemon.out(), "listening on " + daemon.address() + "\n");
}

TEST(GraftdTest, SecondDaemonOnAPortSaysThatItIsInUse) {
  DaemonProcess first(std::vector<std::string>{});
  ASSERT_TRUE(first.WaitUntilServing()) << first.log();
  DaemonProcess second(std::vector<std::string>{"--listen=" + first.address()});
  EXPECT_EQ(second.Wait(), 1);
  EXPECT_THAT(second.log(), HasSubstr("in use"));
}

TEST(GraftdTest, BadFlagsEndItNamingTheFlag) {
  // One that we check, one that Abseil does, one that the engine does, and what
  // is no flag; daemon_options_test has the rest.
  const std::vector<std::string> kBad[] = {
      {"--listen=0.0.0.0:0", "--allow_insecure"},
      {"--max_steps=many", "max_steps"},
      {"--device=cuda:999", "cuda:999"},
      {"--batching=maybe", "--batching"},
      {"--tls_cert=/nowhere/cert.pem", "/nowhere/cert.pem"},
      {"--token_file=/nowhere/tokens", "/nowhere/tokens"},
      {"--metrics_listen=9464", "--metrics_listen"},
      {"--export=ink", "--export_to"},
      {"--export_to=/nowhere/out.safetensors", "/nowhere"},
      {"argument", "argument"},
  };
  for (const auto& bad : kBad) {
    DaemonProcess daemon(std::vector<std::string>{bad[0]});
    EXPECT_EQ(daemon.Wait(), 1) << bad[0];
    EXPECT_THAT(daemon.log(), HasSubstr(bad[1]));
    EXPECT_EQ(daemon.out(), "");
  }
}

TEST(GraftdTest, AllowInsecureServesOtherMachines) {
  DaemonProcess daemon(
      std::vector<std::string>{"--listen=0.0.0.0:0", "--allow_insecure"});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  EXPECT_THAT(daemon.address(), HasSubstr("0.0.0.0:"));
}

// The size of the header, and the header itself.
std::string ReadHeader(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t size = 0;  // little-endian, as this machine is
  file.read(reinterpret_cast<char*>(&size), sizeof(size));
  std::string header(size, '\0');
  file.read(header.data(), static_cast<std::streamsize>(size));
  return file ? header : "";
}

TEST(GraftdTest, ExportWritesTheMergedWeightsAndDoesNotServe) {
  const TempDir dir;
  const std::string file = dir.File("out.safetensors");
  DaemonProcess daemon(std::vector<std::string>{"--export=outline=0.8,night",
                                                "--export_to=" + file});
  EXPECT_EQ(daemon.Wait(), 0) << daemon.log();
  EXPECT_EQ(daemon.out(), "exported outline=0.8, night=1 to " + file + "\n");
  const std::string header = ReadHeader(file);
  EXPECT_THAT(header, HasSubstr("__metadata__"));
  EXPECT_THAT(header, HasSubstr("base_sha256"));
  EXPECT_THAT(header, HasSubstr("outline"));
  EXPECT_THAT(header, HasSubstr("conv_in.weight"));
}

TEST(GraftdTest, ExportOfAMissingAdapterEndsWithOne) {
  const TempDir dir;
  const std::string file = dir.File("out.safetensors");
  DaemonProcess daemon(
      std::vector<std::string>{"--export=nobody", "--export_to=" + file});
  EXPECT_EQ(daemon.Wait(), 1);
  EXPECT_THAT(daemon.log(), HasSubstr("nobody.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(GraftdTest, InterruptedExportLeavesNothing) {
  const TempDir dir;
  DaemonProcess daemon(
      std::vector<std::string>{"--export_to=" + dir.File("out.safetensors")});
  siginfo_t end{};
  while (std::filesystem::is_empty(dir.path()) && end.si_pid == 0) {
    waitid(P_PID, static_cast<id_t>(daemon.pid()), &end,
           WEXITED | WNOHANG | WNOWAIT);
  }
  daemon.Signal(SIGTERM);
  // The export may have been quicker: then its file is whole.
  const int exit_code = daemon.Wait();
  if (exit_code == 0) {
    EXPECT_NE(ReadHeader(dir.File("out.safetensors")), "");
    std::filesystem::remove(dir.File("out.safetensors"));
  } else {
    EXPECT_EQ(exit_code, 128 + SIGTERM);
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GraftdTest, ModelLargerThanTheLimitEndsItNamingTheFlag) {
  DaemonProcess daemon(
      std::vector<std::string>{"--min_side=8", "--max_side=8"});
  EXPECT_EQ(daemon.Wait(), 1);
  EXPECT_THAT(daemon.log(), HasSubstr("--max_side"));
}

// Fault 6: the disk takes no more. Its own signal would end the process.
TEST(GraftdTest, FileBeyondTheLimitIsRefused) {
  const TempDir adapters;
  DaemonProcess daemon(
      std::vector<std::string>{"--adapter_dir=" + adapters.path()});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  const rlimit limit{64 << 10, 64 << 10};
  ASSERT_EQ(prlimit(daemon.pid(), RLIMIT_FSIZE, &limit, nullptr), 0);
  const TempDir dir;
  v1::UploadAdapterHeader header;
  header.set_name("ink");
  GraftClient client({.server = daemon.address()});
  const absl::Status refused =
      client.UploadAdapter(header, dir.Write("ink", std::string(1 << 20, 'x')))
          .status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(ErrorReasonOf(refused), "QUOTA");
  EXPECT_TRUE(std::filesystem::is_empty(adapters.path()));
  EXPECT_TRUE(client.GetServerInfo().ok());
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(GraftdTest, HangUpReadsTheTokensAgain) {
  const TempDir dir;
  const auto write = [&dir](const std::string& token) {
    return dir.Write("tokens",
                     "t:read:" + Sha256Hex(token.data(), token.size()));
  };
  DaemonProcess daemon(
      std::vector<std::string>{"--token_file=" + write("old")});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  GraftClient client({.server = daemon.address(), .token = "new"});
  EXPECT_EQ(ErrorReasonOf(client.GetServerInfo().status()), "TOKEN_INVALID");
  write("new");
  daemon.Signal(SIGHUP);
  while (!client.GetServerInfo().ok()) continue;
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST(GraftdTest, HelpShowsOurFlagsOnly) {
  DaemonProcess daemon(std::vector<std::string>{"--help"});
  EXPECT_EQ(daemon.Wait(), 0);
  for (const char* const flag : {"--model",
                                 "--adapter_dir",
                                 "--listen",
                                 "--device",
                                 "--dtype",
                                 "--restore",
                                 "--allow_insecure",
                                 "--exit_timeout",
                                 "--threads",
                                 "--log_level",
                                 "--max_steps",
                                 "--max_adapter_file_bytes",
                                 "--max_queued_requests",
                                 "--max_queued_work",
                                 "--batching",
                                 "--metrics_listen",
                                 "--tls_cert",
                                 "--tls_key",
                                 "--tls_client_ca",
                                 "--token_file",
                                 "--export",
                                 "--export_to"}) {
    EXPECT_THAT(daemon.out(), HasSubstr(flag));
  }
  EXPECT_THAT(daemon.out(), Not(HasSubstr("--flagfile")));
}

TEST(GraftdTest, IdleComputeThreadsDoNotSpin) {
  DaemonProcess daemon(DaemonProcess::Options{
      .flags = {}, .environment = {{"OMP_WAIT_POLICY", ""}}});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  EXPECT_THAT(EnvironmentOf(daemon.pid()),
              HasSubstr("OMP_WAIT_POLICY=PASSIVE"));
}

TEST(GraftdTest, WaitPolicyOfTheUserStays) {
  DaemonProcess daemon(DaemonProcess::Options{
      .flags = {}, .environment = {{"OMP_WAIT_POLICY", "ACTIVE"}}});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  EXPECT_THAT(
      EnvironmentOf(daemon.pid()),
      AllOf(HasSubstr("OMP_WAIT_POLICY=ACTIVE"), Not(HasSubstr("PASSIVE"))));
}

// Fault 23: the accepted request finishes, and a second signal would not wait.
TEST(GraftdTest, FirstSignalDrainsAndSecondEndsAtOnce) {
  DaemonProcess daemon(std::vector<std::string>{"--exit_timeout=1h"});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  absl::Notification running;
  absl::Status generated;
  std::thread client([&] {
    generated = GraftClient({.server = daemon.address()})
                    .Generate(LongRequest(),
                              [&](const v1::GenerateImageResponse& event) {
                                if (event.has_started()) running.Notify();
                              })
                    .status();
  });
  ASSERT_TRUE(running.WaitForNotificationWithTimeout(absl::Seconds(30)));
  daemon.Signal(SIGTERM);
  GraftClient other({.server = daemon.address()});
  v1::LoadAdapterRequest load;
  load.set_path("outline.safetensors");
  absl::Status refused;
  do {
    refused = other.LoadAdapter(load).status();
  } while (refused.ok());
  EXPECT_EQ(ErrorReasonOf(refused), "DRAINING");
  daemon.Signal(SIGTERM);
  EXPECT_EQ(daemon.Wait(), 1);
  client.join();
  EXPECT_EQ(generated.code(), absl::StatusCode::kUnavailable);
}

TEST(GraftdTest, ExitTimeoutCancelsWhatStillRuns) {
  DaemonProcess daemon(std::vector<std::string>{"--exit_timeout=100ms"});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  const absl::Status generated =
      GraftClient({.server = daemon.address()})
          .Generate(LongRequest(),
                    [&](const v1::GenerateImageResponse& event) {
                      if (event.has_started()) daemon.Signal(SIGINT);
                    })
          .status();
  EXPECT_EQ(ErrorReasonOf(generated), "ADMIN_CANCELLED");
  EXPECT_EQ(daemon.Wait(), 0);
}

// Fault 17. gRPC's own acceptor would never accept again (CVE-2023-4785).
TEST(GraftdTest, ServesAgainAfterAFloodOfConnections) {
  DaemonProcess daemon(
      DaemonProcess::Options{.flags = {}, .max_descriptors = 64});
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  std::vector<int> flood;
  for (int i = 0; i < 300; ++i)
    flood.push_back(ConnectToLoopback(daemon.address()));
  const absl::Status surplus =
      GraftClient({.server = daemon.address()}).GetServerInfo().status();
  EXPECT_EQ(surplus.code(), absl::StatusCode::kUnavailable);
  for (const int fd : flood) close(fd);
  const auto served =
      GraftClient({.server = daemon.address(), .retries = 20}).GetServerInfo();
  EXPECT_TRUE(served.ok()) << served.status();
  EXPECT_EQ(daemon.Stop(), 0);
}

}  // namespace
}  // namespace graft

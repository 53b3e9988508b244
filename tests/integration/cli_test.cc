// The client's command line against the whole daemon.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "client/command_line.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/sha256.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::StartsWith;

// What a run of the program printed and returned.
struct Ran {
  int exit_code = 0;
  std::string out;
  std::string err;
};

class CliTest : public testing::Test {
 protected:
  // Runs `graft arguments...` against the daemon, unless they name another.
  Ran Run(const std::vector<std::string>& arguments) {
    std::vector<const char*> argv = {"graft"};
    if (std::find(arguments.begin(), arguments.end(), "--server") ==
        arguments.end()) {
      argv.insert(argv.end(), {"--server", daemon_.address().c_str()});
    }
    for (const std::string& argument : arguments) {
      argv.push_back(argument.c_str());
    }
    std::ostringstream out;
    std::ostringstream err;
    Ran ran;
    ran.exit_code = RunCommandLine(static_cast<int>(argv.size()), argv.data(),
                                   Console{out, err});
    ran.out = out.str();
    ran.err = err.str();
    return ran;
  }

  // The same, for a command that must succeed.
  std::string RunOk(const std::vector<std::string>& arguments) {
    const Ran ran = Run(arguments);
    EXPECT_EQ(ran.exit_code, 0) << ran.err;
    EXPECT_THAT(ran.err, IsEmpty());
    return ran.out;
  }

  json RunJson(const std::vector<std::string>& arguments) {
    return json::parse(RunOk(arguments));
  }

  std::string Out(const std::string& name) const { return out_.File(name); }

  static std::string ReadFile(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream bytes;
    bytes << file.rdbuf();
    return bytes.str();
  }

  void LoadInk() {
    daemon_.adapter_dir().Write("ink.safetensors", TinyLoraFile());
    RunOk({"adapter", "load", "ink.safetensors"});
  }

  InProcessDaemon daemon_;
  TempDir out_;
};

TEST_F(CliTest, GenerateSavesThePicture) {
  const std::string out = RunOk({"generate", "a star", "--seed", "5", "--steps",
                                 "2", "--out", Out("star.png")});
  EXPECT_THAT(out, HasSubstr("star.png  seed 5"));
  EXPECT_THAT(ReadFile(Out("star.png")), StartsWith("\x89PNG"));
}

TEST_F(CliTest, GenerateJsonHasWhatScriptsNeed) {
  LoadInk();
  const json result =
      RunJson({"generate", "a star", "--adapter", "ink=0.8", "--seed", "5",
               "--count", "2", "--json", "--out", Out("star.png")});
  EXPECT_EQ(result.at("files"), json({Out("star-0.png"), Out("star-1.png")}));
  EXPECT_EQ(result.at("seeds"), json({5, 6}));
  EXPECT_EQ(result.at("adapters").at(0).at("name"), "ink");
  EXPECT_EQ(result.at("adapters").at(0).at("weight"), 0.8);
  EXPECT_EQ(result.at("adapters").at(0).at("sha256").get<std::string>().size(),
            64u);
  EXPECT_EQ(result.at("base_sha256"), daemon_.engine().info().base_sha256);
  for (const char* const stage :
       {"adapter_load", "queue", "switch", "text_encode", "denoise",
        "vae_decode", "image_encode"}) {
    EXPECT_TRUE(result.at("timings_ms").at(stage).is_number()) << stage;
  }
  EXPECT_EQ(result.at("timings_ms").at("switch"), 1.0);  // FakeEngine's
}

TEST_F(CliTest, GenerateJsonTellsTheSchedule) {
  LoadInk();
  const json result =
      RunJson({"generate", "a star", "--adapter", "ink=0.8@0-0.4", "--adapter",
               "ink=0.2@0.4-1", "--json", "--out", Out("star.png")});
  EXPECT_EQ(result.at("adapters").at(0).at("schedule"), json::parse(R"([
                {"from": 0.0, "to": 0.4, "weight": 0.8,
                 "text_encoder_weight": 0.8},
                {"from": 0.4, "to": 1.0, "weight": 0.2,
                 "text_encoder_weight": 0.2}])"));
}

TEST_F(CliTest, VerifySucceedsOnlyIfAllWasIntact) {
  EXPECT_THAT(RunOk({"verify"}), StartsWith("intact: "));
  daemon_.engine().SetDrift({"unet.conv_in.weight"}, /*repairable=*/true);
  const Ran repaired = Run({"verify", "--repair"});
  EXPECT_EQ(repaired.exit_code, 1);
  EXPECT_EQ(repaired.out, "differs: unet.conv_in.weight\n");
  EXPECT_THAT(repaired.err,
              StartsWith("graft: DATA_LOSS BASE_WEIGHTS_DRIFT: "));
  EXPECT_THAT(repaired.err, HasSubstr("repaired now"));
  const json report = RunJson({"verify", "--json"});
  EXPECT_EQ(report.at("differing"), json::array());
  EXPECT_EQ(report.at("repaired"), false);
}

TEST_F(CliTest, EachOfSeveralFilesIsTheSingleOne) {
  RunOk({"generate", "a star", "--seed", "5", "--count", "2", "--out",
         Out("star.png")});
  RunOk({"generate", "a star", "--seed", "6", "--out", Out("six.png")});
  EXPECT_EQ(ReadFile(Out("star-1.png")), ReadFile(Out("six.png")));
}

TEST_F(CliTest, EveryOptionReachesTheServer) {
  LoadInk();
  RunOk({"generate",   "a star",
         "--negative", "red",
         "--adapter",  "ink",
         "--steps",    "3",
         "--guidance", "4.5",
         "--sampler",  "euler_a",
         "--seed",     "18446744073709551615",
         "--width",    "64",
         "--height",   "128",
         "--out",      Out("a.png")});
  const GenerationParams params = daemon_.engine().begun().back();
  EXPECT_EQ(params.prompt, "a star");
  EXPECT_EQ(params.negative_prompt, "red");
  EXPECT_EQ(params.steps, 3);
  EXPECT_EQ(params.guidance_scale, 4.5);
  EXPECT_EQ(params.sampler, "euler_a");
  EXPECT_EQ(params.seed, 18446744073709551615u);
  EXPECT_EQ(params.width, 64);
  EXPECT_EQ(params.height, 128);
}

TEST_F(CliTest, StepsDefaultToWhatTheServerRecommends) {
  RunOk({"generate", "a star", "--out", Out("a.png")});
  EXPECT_EQ(daemon_.engine().begun().back().steps, 25);
}

TEST_F(CliTest, AdapterOptionDoesNotSwallowThePrompt) {
  LoadInk();
  RunOk({"generate", "--adapter", "ink=-0.5", "--out", Out("a.png"), "a star"});
  EXPECT_EQ(daemon_.engine().begun().back().prompt, "a star");
}

TEST_F(CliTest, EmptyPromptIsLegal) {
  RunOk({"generate", "", "--out", Out("a.png")});
  EXPECT_EQ(daemon_.engine().begun().back().prompt, "");
}

TEST_F(CliTest, ServerErrorIsOneLineWithCodeAndReason) {
  const Ran ran =
      Run({"generate", "a star", "--adapter", "nobody", "--out", Out("a.png")});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, StartsWith("graft: NOT_FOUND ADAPTER_NOT_FOUND: "));
  EXPECT_EQ(ran.err.find('\n'), ran.err.size() - 1);
  EXPECT_THAT(ran.out, IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(Out("a.png")));
}

TEST_F(CliTest, NoStepsGetsItsOwnError) {
  const Ran ran =
      Run({"generate", "a star", "--steps", "0", "--out", Out("a.png")});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err,
              StartsWith("graft: INVALID_ARGUMENT INVALID_FIELD: steps"));
}

TEST_F(CliTest, MissingOutputFolderIsToldBeforeTheWork) {
  const Ran ran = Run({"generate", "a star", "--out", Out("no/where.png")});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, StartsWith("graft: NOT_FOUND NO_REASON: --out"));
  EXPECT_THAT(daemon_.engine().begun(), IsEmpty());
}

TEST_F(CliTest, AdaptersAreLoadedListedAndUnloaded) {
  daemon_.adapter_dir().Write("my styles/ink v2.safetensors", TinyLoraFile());
  EXPECT_THAT(RunOk({"adapter", "list"}), HasSubstr("no adapter"));
  const Ran refused = Run({"adapter", "load", "my styles/ink v2.safetensors"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("ink-v2"));
  EXPECT_THAT(RunOk({"adapter", "load", "my styles/ink v2.safetensors",
                     "--name", "ink"}),
              StartsWith("loaded: ink\n"));
  EXPECT_THAT(RunOk({"adapter", "list"}), HasSubstr("ink"));
  const json list = RunJson({"adapter", "list", "--json"});
  EXPECT_EQ(list.at("adapters").at(0).at("name"), "ink");
  EXPECT_EQ(list.at("adapters").at(0).at("path"),
            "my styles/ink v2.safetensors");
  EXPECT_THAT(RunOk({"adapter", "unload", "ink"}), StartsWith("unloaded: ink"));
  EXPECT_EQ(RunJson({"adapter", "list", "--json"}),
            json({{"adapters", json::array()}}));
  EXPECT_THAT(Run({"adapter", "unload", "ink"}).err,
              StartsWith("graft: NOT_FOUND ADAPTER_NOT_FOUND: "));
}

TEST_F(CliTest, PinnedAdaptersStay) {
  LoadInk();
  EXPECT_EQ(RunOk({"adapter", "pin", "ink"}), "pinned: ink\n");
  EXPECT_THAT(RunOk({"adapter", "list"}), HasSubstr("device, pinned"));
  EXPECT_EQ(
      RunJson({"adapter", "list", "--json"}).at("adapters").at(0).at("pinned"),
      true);
  EXPECT_THAT(Run({"adapter", "unload", "ink"}).err,
              StartsWith("graft: FAILED_PRECONDITION ADAPTER_PINNED: "));
  EXPECT_EQ(RunOk({"adapter", "unpin", "ink"}), "unpinned: ink\n");
  RunOk({"adapter", "unload", "ink", "--if_unused"});
  daemon_.adapter_dir().Write("night.safetensors", TinyLoraFile(1));
  RunOk({"adapter", "load", "night.safetensors", "--pin"});
  EXPECT_THAT(Run({"adapter", "unload", "night", "--force"}).err,
              HasSubstr("ADAPTER_PINNED"));
  EXPECT_EQ(
      Run({"adapter", "unload", "night", "--force", "--if-unused"}).exit_code,
      2);
}

TEST_F(CliTest, StatusTellsTheLoad) {
  LoadInk();
  RunOk({"generate", "a star", "--adapter", "ink=0.5", "--out", Out("a.png")});
  const std::string text = RunOk({"status"});
  EXPECT_THAT(text, HasSubstr("state      serving\n"));
  EXPECT_THAT(text, HasSubstr("0 running, 0 waiting"));
  EXPECT_THAT(text, HasSubstr("merged     ink=0.5\n"));
  const json status = RunJson({"status", "--json"});
  EXPECT_EQ(status.at("draining"), false);
  EXPECT_EQ(status.at("waiting_requests"), 0);
  EXPECT_EQ(status.at("resident").at(0).at("name"), "ink");
  EXPECT_EQ(status.at("host").at("adapters"), 1);
  EXPECT_EQ(status.at("device").at("max_bytes"), 0);
}

TEST_F(CliTest, DrainTellsWhetherAnythingIsLeft) {
  daemon_.engine().Block(FakeEngine::Call::kStep);
  std::thread client([&] { Run({"generate", "a", "--out", Out("a.png")}); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(FakeEngine::Call::kStep));
  const Ran busy = Run({"drain", "--wait", "0.001"});
  EXPECT_EQ(busy.exit_code, 1);
  EXPECT_EQ(busy.out, "draining: 1 request left\n");
  EXPECT_THAT(busy.err, HasSubstr("DEADLINE_EXCEEDED NO_REASON: 1 request"));
  EXPECT_THAT(RunOk({"status"}), HasSubstr("state      draining\n"));
  daemon_.engine().Unblock(FakeEngine::Call::kStep);
  client.join();
  EXPECT_THAT(RunOk({"drain"}), EndsWith("drained\n"));
}

// For supervisors and containers.
TEST_F(CliTest, HealthSucceedsOnlyWhileTheServerServes) {
  EXPECT_EQ(RunOk({"health"}), "serving\n");
  RunOk({"drain"});
  const Ran drained = Run({"health"});
  EXPECT_EQ(drained.exit_code, 1);
  EXPECT_THAT(drained.err, StartsWith("graft: UNAVAILABLE NOT_SERVING: "));
}

TEST_F(CliTest, FilesAreReplacedWholeAndNothingElseIsLeft) {
  const std::string target = out_.Write("target.png", "old");
  std::filesystem::create_symlink(target, Out("link.png"));
  RunOk({"generate", "a star", "--steps", "1", "--out", target});
  EXPECT_THAT(ReadFile(target), StartsWith("\x89PNG"));
  out_.Write("target.png", "old");
  RunOk({"generate", "a star", "--steps", "1", "--out", Out("link.png")});
  EXPECT_TRUE(std::filesystem::is_symlink(Out("link.png")));
  EXPECT_THAT(ReadFile(target), StartsWith("\x89PNG"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(out_.path()),
                          std::filesystem::directory_iterator()),
            2);
}

TEST_F(CliTest, FileOfThisMachineIsUploaded) {
  const std::string file = out_.Write("my ink.safetensors", TinyLoraFile());
  EXPECT_THAT(Run({"adapter", "upload", file}).err,
              AllOf(StartsWith("graft: INVALID_ARGUMENT NO_REASON: " + file),
                    HasSubstr("--name my-ink")));
  EXPECT_THAT(RunOk({"adapter", "upload", file, "--name", "ink"}),
              StartsWith("loaded: ink\n"));
  EXPECT_EQ(ReadFile(daemon_.adapter_dir().File("ink.safetensors")),
            TinyLoraFile());
  EXPECT_THAT(Run({"adapter", "upload", Out("nothing")}).err,
              StartsWith("graft: NOT_FOUND NO_REASON: "));
}

TEST_F(CliTest, WhatIsNoAdaptersFileIsNotUploaded) {
  const std::string empty = out_.Write("empty.safetensors", "");
  EXPECT_THAT(Run({"adapter", "upload", empty}).err,
              AllOf(StartsWith("graft: INVALID_ARGUMENT NO_REASON: " + empty),
                    HasSubstr("is empty")));
  out_.Write("peft/adapter_model.safetensors", TinyLoraFile());
  EXPECT_THAT(
      Run({"adapter", "upload", Out("peft")}).err,
      AllOf(StartsWith("graft: INVALID_ARGUMENT NO_REASON: " + Out("peft")),
            HasSubstr("is a folder"), HasSubstr("graft adapter load")));
  // Without a letter there is nothing to call it.
  const std::string dots = out_.Write("___.safetensors", TinyLoraFile());
  EXPECT_THAT(Run({"adapter", "upload", dots}).err,
              HasSubstr("--name adapter"));
}

TEST_F(CliTest, TokenIsTakenFromAFile) {
  const std::string tokens =
      out_.Write("tokens", "t:read:" + Sha256Hex("secret", 6));
  InProcessDaemon daemon(
      [&](DaemonOptions& options) { options.token_file = tokens; });
  const std::string token = out_.Write("token", "secret\n");
  EXPECT_EQ(Run({"info", "--server", daemon.address()}).exit_code, 1);
  RunOk({"info", "--server", daemon.address(), "--token_file", token});
}

TEST_F(CliTest, InfoTellsTheServer) {
  LoadInk();
  RunOk({"generate", "a star", "--adapter", "ink=0.5", "--out", Out("a.png")});
  EXPECT_THAT(RunOk({"info"}), HasSubstr("ink=0.5"));
  const json info = RunJson({"info", "--json"});
  EXPECT_EQ(info.at("model"), "fake");
  EXPECT_EQ(info.at("family"), "SD 1.x");
  EXPECT_EQ(info.at("device"), "cpu");
  EXPECT_EQ(info.at("dtype"), "float32");
  EXPECT_EQ(info.at("base_sha256"), daemon_.engine().info().base_sha256);
  EXPECT_EQ(info.at("resident").at(0).at("name"), "ink");
  EXPECT_EQ(info.at("resident").at(0).at("weight"), 0.5);
  EXPECT_EQ(info.at("memory").at("base_bytes"), 1000);
  EXPECT_EQ(info.at("memory").at("restore_bytes"), 100);
  EXPECT_GT(info.at("memory").at("adapter_bytes"), 0);
  EXPECT_EQ(info.at("limits").at("max_steps"), 1000);
  EXPECT_EQ(info.at("limits").at("max_queued_work"), 13421772800);
  EXPECT_EQ(info.at("batching"), true);
  EXPECT_EQ(info.at("max_batch_size"), 4);
  EXPECT_TRUE(info.at("versions").contains("graft"));
}

TEST_F(CliTest, GlobalOptionsMayFollowTheCommand) {
  std::ostringstream out;
  std::ostringstream err;
  const char* const argv[] = {"graft",     "info",
                              "--server",  daemon_.address().c_str(),
                              "--timeout", "30"};
  EXPECT_EQ(RunCommandLine(6, argv, Console{out, err}), 0) << err.str();
}

TEST_F(CliTest, ServerComesFromTheEnvironment) {
  setenv("GRAFT_SERVER", daemon_.address().c_str(), 1);
  std::ostringstream out;
  std::ostringstream err;
  const char* const argv[] = {"graft", "info"};
  const int exit_code = RunCommandLine(2, argv, Console{out, err});
  unsetenv("GRAFT_SERVER");
  EXPECT_EQ(exit_code, 0) << err.str();
}

TEST_F(CliTest, NobodyListensSaysSo) {
  const std::string address = daemon_.address();
  daemon_.Stop();
  const Ran ran = Run({"info"});
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, StartsWith("graft: UNAVAILABLE NO_REASON: "));
  EXPECT_THAT(ran.err, HasSubstr("is graftd running at " + address));
}

}  // namespace
}  // namespace graft

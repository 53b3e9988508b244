#include "client/command_line.h"

#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

// What needs no server.
class CommandLineTest : public testing::Test {
 protected:
  int Run(const std::vector<const char*>& arguments) {
    std::vector<const char*> argv = {"graft"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    return RunCommandLine(static_cast<int>(argv.size()), argv.data(),
                          Console{out_, err_});
  }

  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(CommandLineTest, HelpShowsTheCommands) {
  EXPECT_EQ(Run({"--help"}), 0);
  for (const char* const part :
       {"generate", "adapter", "health", "info", "verify", "--server",
        "GRAFT_SERVER", "--timeout", "--retries", "--tls_ca", "--tls_cert",
        "--tls_key", "--token_file"}) {
    EXPECT_THAT(out_.str(), HasSubstr(part));
  }
  EXPECT_THAT(err_.str(), IsEmpty());
}

TEST_F(CommandLineTest, HelpOfACommandShowsItsOptions) {
  EXPECT_EQ(Run({"generate", "--help"}), 0);
  for (const char* const option :
       {"PROMPT", "--negative", "--adapter",
        "NAME[=WEIGHT[:TEXT_ENCODER_WEIGHT]][@FROM-TO]", "sketch=0.8@0-0.4",
        "--steps", "--guidance", "--sampler", "--seed", "--width", "--height",
        "--count", "--out", "--json"}) {
    EXPECT_THAT(out_.str(), HasSubstr(option));
  }
}

TEST_F(CommandLineTest, VersionIsShown) {
  EXPECT_EQ(Run({"--version"}), 0);
  EXPECT_THAT(out_.str(), StartsWith("graft 0."));
}

TEST_F(CommandLineTest, MistakesAreOneLineAndExitCodeTwo) {
  const std::vector<std::vector<const char*>> kMistakes = {
      {},
      {"paint"},
      {"generate"},
      {"generate", "a star", "--steps", "many"},
      {"generate", "a star", "--seed", "-1"},
      {"generate", "a star", "--unknown"},
      {"generate", "a star", "another"},
      {"adapter"},
      {"adapter", "load"},
      {"info", "--timeout", "0"},
      {"info", "--retries", "-1"},
      {"info", "--tls_cert", "cert.pem"},
      {"info", "--tls_key", "key.pem"},
      {"info", "--tls_cert", "cert.pem", "--tls_key", "key.pem"},
      {"adapter", "upload"},
      {"generate", "a star", "--count", "010"},
      {"generate", "a star", "--count", "-1"},
      {"generate", "a star", "--steps", "0x10"},
      {"generate", "a st\xffr"},
      {"generate", "a star", "--negative", "\xc0\xaf"},
      {"generate", "a star", "--adapter", "\xed\xa0\x80"},
      {"adapter", "load", "\xff.safetensors"},
      {"adapter", "unload", "\xff"},
      {"adapter", "pin", "\xff"},
      {"info", "--timeout", "nan"},
      {"info", "--timeout", "1e300"},
      {"info", "--retries", "010"},
      {"drain", "--wait", "nan"},
      {"generate", "a star", "--adapter", "ink=strong"},
      {"generate", "a star", "--adapter", "=1"},
      {"generate", "a star", "--adapter", ""},
      {"generate", "a star", "--adapter", "ink", "--adapter", "ink"},
      {"generate", "a star", "--out", ""},
      {"generate", "a star", "--out", "/tmp"},
      {"generate", "a star", "--out", "/tmp/"},
  };
  for (const auto& mistake : kMistakes) {
    err_.str("");
    EXPECT_EQ(Run(mistake), 2);
    EXPECT_THAT(err_.str(), StartsWith("graft: INVALID_ARGUMENT NO_REASON: "));
    EXPECT_EQ(err_.str().find('\n'), err_.str().size() - 1) << err_.str();
  }
}

TEST_F(CommandLineTest, WeightThatIsNoNumberIsRefusedHere) {
  EXPECT_EQ(Run({"generate", "a star", "--adapter", "ink=strong"}), 2);
  EXPECT_THAT(err_.str(), HasSubstr("--adapter ink=strong: the weight"));
}

TEST_F(CommandLineTest, OutputThatIsNoFileIsToldBeforeTheWork) {
  const std::pair<const char*, int> kOutputs[] = {
      {"", 2}, {"/tmp", 2}, {"/tmp/", 2}, {"no/where.png", 1}};
  for (const auto& [out, exit_code] : kOutputs) {
    err_.str("");
    EXPECT_EQ(Run({"generate", "a star", "--out", out}), exit_code);
    EXPECT_THAT(err_.str(), HasSubstr("--out"));
    EXPECT_EQ(err_.str().find("UNAVAILABLE"), std::string::npos) << err_.str();
  }
}

// As graftd's, with "_"; those that once had "-" still do.
TEST_F(CommandLineTest, FlagsMayBeWrittenBothWays) {
  for (const char* const flag : {"--allow_partial", "--allow-partial"}) {
    for (const char* const command : {"load", "upload"}) {
      EXPECT_EQ(Run({"adapter", command, "--help", flag}), 0) << err_.str();
    }
  }
  for (const char* const flag : {"--if_unused", "--if-unused"}) {
    EXPECT_EQ(Run({"adapter", "unload", "--help", flag}), 0) << err_.str();
  }
  EXPECT_THAT(out_.str(), HasSubstr("--allow_partial"));
  EXPECT_THAT(out_.str(), HasSubstr("--if_unused"));
}

TEST_F(CommandLineTest, FilesThatCannotBeReadAreNamed) {
  for (const char* const option : {"--tls_ca", "--token_file"}) {
    err_.str("");
    EXPECT_EQ(Run({"info", option, "/nowhere/file"}), 1);
    EXPECT_THAT(err_.str(), HasSubstr("/nowhere/file: cannot be read"));
    EXPECT_THAT(err_.str(), HasSubstr(option));
  }
}

}  // namespace
}  // namespace graft

#include "client/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/client_status.h"
#include "client/commands/command.h"
#include "client/graft_client.h"
#include "client/option_checks.h"

namespace graft {
namespace {

constexpr int kExitError = 1;
constexpr int kExitUsage = 2;

// Options that stand before any command, or after it.
struct GlobalOptions {
  std::string server = "127.0.0.1:50051";
  double timeout_seconds = 600;
  int retries = 0;
  std::string tls_ca;
  std::string tls_cert;
  std::string tls_key;
  std::string token_file;
};

void AddGlobalOptions(CLI::App& app, GlobalOptions& options) {
  app.add_option("--server", options.server, "Where graftd listens")
      ->envname("GRAFT_SERVER")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  app.add_option("--timeout", options.timeout_seconds,
                 "Seconds to wait for an answer, all tries together; the "
                 "server may end a call earlier (graftd "
                 "--max_connection_age)")
      ->capture_default_str()
      ->check(CheckSeconds)
      ->type_name("SECONDS");
  app.add_option("--retries", options.retries,
                 "How often to try again when the server is busy, starting or "
                 "away")
      ->capture_default_str()
      ->check(CheckNumber)
      ->type_name("N");
  app.add_option("--tls_ca", options.tls_ca,
                 "PEM file with who may certify the server; switches TLS on")
      ->type_name("FILE");
  CLI::Option* const certificate =
      app.add_option("--tls_cert", options.tls_cert,
                     "PEM file with this client's certificate, for servers "
                     "that ask for one")
          ->type_name("FILE");
  CLI::Option* const key =
      app.add_option("--tls_key", options.tls_key,
                     "PEM file with the private key of --tls_cert")
          ->type_name("FILE");
  certificate->needs(key)->needs("--tls_ca");
  key->needs(certificate);
  app.add_option("--token_file", options.token_file,
                 "File with the bearer token that the server wants")
      ->type_name("FILE");
  app.set_version_flag("--version", "graft " GRAFT_CLIENT_VERSION);
}

std::vector<std::unique_ptr<Command>> AddCommands(CLI::App& app) {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(MakeGenerateCommand(app));
  CLI::App* const adapter = app.add_subcommand(
      "adapter", "Load, upload, list, pin and unload adapters");
  adapter->require_subcommand(1);
  commands.push_back(MakeAdapterLoadCommand(*adapter));
  commands.push_back(MakeAdapterUploadCommand(*adapter));
  commands.push_back(MakeAdapterListCommand(*adapter));
  commands.push_back(MakeAdapterUnloadCommand(*adapter));
  commands.push_back(MakeAdapterPinCommand(*adapter));
  commands.push_back(MakeAdapterUnpinCommand(*adapter));
  commands.push_back(MakeHealthCommand(app));
  commands.push_back(MakeInfoCommand(app));
  commands.push_back(MakeStatusCommand(app));
  commands.push_back(MakeVerifyCommand(app));
  commands.push_back(MakeDrainCommand(app));
  return commands;
}

int Report(const absl::Status& status, int exit_code, const Console& console) {
  console.err << "graft: " << DescribeError(status) << std::endl;
  return exit_code;
}

// Reads `path` into `text`, unless it is empty.
absl::Status ReadFile(const char* option, const std::string& path,
                      std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ifstream file(path, std::ios::binary);
  text.assign(std::istreambuf_iterator<char>(file), {});
  if (file && !text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " ", path, ": cannot be read, or is empty"));
}

absl::StatusOr<GraftClient::Options> ToClientOptions(
    const GlobalOptions& options) {
  GraftClient::Options client = {
      .server = options.server,
      .timeout = absl::Seconds(options.timeout_seconds),
      .retries = options.retries};
  struct Source {
    const char* option;
    const std::string& path;
    std::string& text;
  };
  const Source kSources[] = {
      {"--tls_ca", options.tls_ca, client.security.server_ca},
      {"--tls_cert", options.tls_cert, client.security.certificate},
      {"--tls_key", options.tls_key, client.security.key},
      {"--token_file", options.token_file, client.token},
  };
  for (const Source& source : kSources) {
    const absl::Status status =
        ReadFile(source.option, source.path, source.text);
    if (!status.ok()) return status;
  }
  absl::StripAsciiWhitespace(&client.token);
  if (!std::all_of(client.token.begin(), client.token.end(),
                   [](unsigned char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(
        absl::StrCat("--token_file ", options.token_file,
                     ": a token is one word of printable ASCII characters"));
  }
  return client;
}

absl::Status RunCalled(const std::vector<std::unique_ptr<Command>>& commands,
                       const GlobalOptions& options, const Console& console) {
  const absl::StatusOr<GraftClient::Options> client_options =
      ToClientOptions(options);
  if (!client_options.ok()) return client_options.status();
  GraftClient client(*client_options);
  for (const std::unique_ptr<Command>& command : commands) {
    if (command->called()) return command->Run(client, console);
  }
  return absl::InternalError("no command was called");  // CLI11 requires one
}

}  // namespace

int RunCommandLine(int argc, const char* const* argv, const Console& console) {
  CLI::App app(
      "graft asks a graftd for images, with the adapters that you name.",
      "graft");
  app.footer(
      "\nFor example:\n"
      "  graft adapter load outline.safetensors\n"
      "  graft generate \"a small blue star\" --adapter outline=0.8 --seed 1");
  app.require_subcommand(1);
  app.fallthrough();  // global options may follow the command
  GlobalOptions options;
  AddGlobalOptions(app, options);
  const std::vector<std::unique_ptr<Command>> commands = AddCommands(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {  // --help, --version
    return app.exit(help, console.out, console.err);
  } catch (const CLI::ParseError& error) {
    return Report(absl::InvalidArgumentError(
                      absl::StrCat(error.what(), " (see graft --help)")),
                  kExitUsage, console);
  }
  const absl::Status status = RunCalled(commands, options, console);
  return status.ok() ? 0 : Report(status, kExitError, console);
}

}  // namespace graft

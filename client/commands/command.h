#ifndef GRAFT_CLIENT_COMMANDS_COMMAND_H_
#define GRAFT_CLIENT_COMMANDS_COMMAND_H_

#include <memory>

#include "absl/status/status.h"
#include "client/console.h"
#include "client/graft_client.h"

namespace CLI {
class App;
}  // namespace CLI

namespace graft {

// One subcommand. Made before the command line is parsed, when it declares its
// options; run after it, if it was the one that was called.
class Command {
 public:
  virtual ~Command() = default;
  virtual bool called() const = 0;
  virtual absl::Status Run(GraftClient& client, const Console& console) = 0;
};

// Each adds its subcommand to `parent`, which outlives the command.
std::unique_ptr<Command> MakeGenerateCommand(CLI::App& parent);
std::unique_ptr<Command> MakeAdapterLoadCommand(CLI::App& adapter);
std::unique_ptr<Command> MakeAdapterUploadCommand(CLI::App& adapter);
std::unique_ptr<Command> MakeAdapterListCommand(CLI::App& adapter);
std::unique_ptr<Command> MakeAdapterUnloadCommand(CLI::App& adapter);
std::unique_ptr<Command> MakeAdapterPinCommand(CLI::App& adapter);
std::unique_ptr<Command> MakeAdapterUnpinCommand(CLI::App& adapter);
std::unique_ptr<Command> MakeHealthCommand(CLI::App& parent);
std::unique_ptr<Command> MakeInfoCommand(CLI::App& parent);
std::unique_ptr<Command> MakeStatusCommand(CLI::App& parent);
std::unique_ptr<Command> MakeVerifyCommand(CLI::App& parent);
std::unique_ptr<Command> MakeDrainCommand(CLI::App& parent);

}  // namespace graft

#endif  // GRAFT_CLIENT_COMMANDS_COMMAND_H_

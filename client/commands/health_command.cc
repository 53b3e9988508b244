#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "client/commands/command.h"

namespace graft {
namespace {

class HealthCommand : public Command {
 public:
  explicit HealthCommand(CLI::App& parent)
      : app_(parent.add_subcommand(
            "health",
            "Ask whether the server serves (grpc.health.v1), which needs no "
            "token; the exit code is 0 only if it does")) {}

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    const absl::Status status = client.CheckHealth();
    if (status.ok()) console.out << "serving\n";
    return status;
  }

 private:
  CLI::App* const app_;
};

}  // namespace

std::unique_ptr<Command> MakeHealthCommand(CLI::App& parent) {
  return std::make_unique<HealthCommand>(parent);
}

}  // namespace graft

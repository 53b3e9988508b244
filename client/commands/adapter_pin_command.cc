#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "client/commands/command.h"
#include "client/option_checks.h"

namespace graft {
namespace {

// Sets an adapter's pin, or takes it away.
class AdapterPinCommand : public Command {
 public:
  AdapterPinCommand(CLI::App& adapter, bool pinned)
      : pinned_(pinned),
        app_(adapter.add_subcommand(
            pinned ? "pin" : "unpin",
            pinned ? "Keep a loaded adapter on the device, and let nobody "
                     "unload it"
                   : "Undo pin")) {
    app_->add_option("NAME", name_, "Its name")->check(CheckUtf8)->required();
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::UpdateAdapterRequest request;
    request.mutable_adapter()->set_name(name_);
    request.mutable_adapter()->set_pinned(pinned_);
    request.mutable_update_mask()->add_paths("pinned");
    const absl::StatusOr<v1::Adapter> adapter = client.UpdateAdapter(request);
    if (adapter.ok()) {
      console.out << (adapter->pinned() ? "pinned: " : "unpinned: ")
                  << adapter->name() << "\n";
    }
    return adapter.status();
  }

 private:
  const bool pinned_;
  CLI::App* const app_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Command> MakeAdapterPinCommand(CLI::App& adapter) {
  return std::make_unique<AdapterPinCommand>(adapter, /*pinned=*/true);
}

std::unique_ptr<Command> MakeAdapterUnpinCommand(CLI::App& adapter) {
  return std::make_unique<AdapterPinCommand>(adapter, /*pinned=*/false);
}

}  // namespace graft

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "client/commands/command.h"
#include "client/option_checks.h"

namespace graft {
namespace {

class AdapterUnloadCommand : public Command {
 public:
  explicit AdapterUnloadCommand(CLI::App& adapter)
      : app_(adapter.add_subcommand(
            "unload", "Forget an adapter, when no request uses it any more")) {
    app_->add_option("NAME", name_, "Its name")->check(CheckUtf8)->required();
    CLI::Option* const force =
        app_->add_flag("--force", force_,
                       "End the requests that use it, do not wait for them");
    app_->add_flag("--if_unused,--if-unused", only_if_unused_,
                   "Fail if a request uses it, do not wait")
        ->excludes(force);
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::UnloadAdapterRequest request;
    request.set_name(name_);
    request.set_force(force_);
    request.set_only_if_unused(only_if_unused_);
    const absl::StatusOr<v1::UnloadAdapterResponse> response =
        client.UnloadAdapter(request);
    if (response.ok()) {
      console.out << "unloaded: " << name_ << " ("
                  << FormatBytes(response->freed_bytes()) << " freed)\n";
    }
    return response.status();
  }

 private:
  CLI::App* const app_;
  std::string name_;
  bool force_ = false;
  bool only_if_unused_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeAdapterUnloadCommand(CLI::App& adapter) {
  return std::make_unique<AdapterUnloadCommand>(adapter);
}

}  // namespace graft

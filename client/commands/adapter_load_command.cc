#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "client/commands/command.h"
#include "client/loaded_adapter.h"
#include "client/option_checks.h"

namespace graft {
namespace {

class AdapterLoadCommand : public Command {
 public:
  explicit AdapterLoadCommand(CLI::App& adapter)
      : app_(adapter.add_subcommand("load", "Load an adapter from a file")) {
    app_->add_option("FILE", path_,
                     "The file, or folder of PEFT, by its path relative to "
                     "the server's --adapter_dir")
        ->check(CheckUtf8)
        ->required();
    app_->add_option("--name", name_,
                     "What to call it (default: the file's stem)")
        ->check(CheckUtf8);
    app_->add_option("--component", component_,
                     "What a PEFT folder changes: unet or text_encoder "
                     "(default: unet)")
        ->check(CheckUtf8);
    app_->add_flag("--allow_partial,--allow-partial", allow_partial_,
                   "Take it even if some of its keys do not fit the base");
    app_->add_flag("--replace", allow_replace_,
                   "Replace other content that is loaded under this name");
    app_->add_flag("--pin", pin_,
                   "Keep it on the device, and let nobody unload it");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::LoadAdapterRequest request;
    request.set_path(path_);
    request.set_name(name_);
    request.set_component(component_);
    request.set_allow_partial(allow_partial_);
    request.set_allow_replace(allow_replace_);
    request.set_pinned(pin_);
    const absl::StatusOr<v1::LoadAdapterResponse> response =
        client.LoadAdapter(request);
    if (response.ok()) PrintLoaded(*response, console.out);
    return response.status();
  }

 private:
  CLI::App* const app_;
  std::string path_;
  std::string name_;
  std::string component_;
  bool allow_partial_ = false;
  bool allow_replace_ = false;
  bool pin_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeAdapterLoadCommand(CLI::App& adapter) {
  return std::make_unique<AdapterLoadCommand>(adapter);
}

}  // namespace graft

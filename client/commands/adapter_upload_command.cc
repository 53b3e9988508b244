#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "client/commands/command.h"
#include "client/loaded_adapter.h"
#include "client/option_checks.h"

namespace graft {
namespace {

class AdapterUploadCommand : public Command {
 public:
  explicit AdapterUploadCommand(CLI::App& adapter)
      : app_(adapter.add_subcommand(
            "upload",
            "Send an adapter's file to the server, which keeps and loads it")) {
    app_->add_option("FILE", path_, "The .safetensors file, on this machine")
        ->required();
    app_->add_option("--name", name_,
                     "What to call it (default: the file's stem)")
        ->check(CheckUtf8);
    app_->add_flag("--allow_partial,--allow-partial", allow_partial_,
                   "Take it even if some of its keys do not fit the base");
    app_->add_flag("--replace", allow_replace_,
                   "Replace other content that the server has under this name");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::UploadAdapterHeader header;
    header.set_name(name_.empty() ? std::filesystem::path(path_).stem().string()
                                  : name_);
    if (!CheckUtf8(header.name()).empty()) {
      return absl::InvalidArgumentError(
          "the file's stem is no UTF-8 and cannot be its name; give --name");
    }
    header.set_allow_partial(allow_partial_);
    header.set_allow_replace(allow_replace_);
    const absl::StatusOr<v1::LoadAdapterResponse> response =
        client.UploadAdapter(std::move(header), path_);
    if (response.ok()) PrintLoaded(*response, console.out);
    return response.status();
  }

 private:
  CLI::App* const app_;
  std::string path_;
  std::string name_;
  bool allow_partial_ = false;
  bool allow_replace_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeAdapterUploadCommand(CLI::App& adapter) {
  return std::make_unique<AdapterUploadCommand>(adapter);
}

}  // namespace graft

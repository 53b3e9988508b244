#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"

namespace graft {
namespace {

void Print(const v1::LoadAdapterResponse& response, std::ostream& out) {
  const v1::Adapter& adapter = response.adapter();
  out << (response.already_loaded() ? "already loaded: " : "loaded: ")
      << adapter.name() << "\n"
      << "  format    " << adapter.format() << ", "
      << absl::StrJoin(adapter.algorithms(), " + ") << ", rank "
      << adapter.max_rank() << "\n"
      << "  targets   " << adapter.unet_targets() << " of the U-Net, "
      << adapter.text_encoder_targets() << " of the text encoder\n"
      << "  size      " << FormatBytes(adapter.size_bytes()) << "\n"
      << "  sha256    " << adapter.sha256() << "\n";
  if (adapter.trigger_words_size() > 0) {
    out << "  triggers  " << absl::StrJoin(adapter.trigger_words(), ", ")
        << "\n";
  }
  if (adapter.keys().unmatched() > 0) {
    out << "  left out  " << adapter.keys().unmatched()
        << " keys that do not fit the base\n";
  }
  for (const std::string& note : adapter.notes()) {
    out << "  note      " << note << "\n";
  }
}

class AdapterLoadCommand : public Command {
 public:
  explicit AdapterLoadCommand(CLI::App& adapter)
      : app_(adapter.add_subcommand("load", "Load an adapter from a file")) {
    app_->add_option("FILE", path_,
                     "The file, by its path relative to the server's "
                     "--adapter_dir")
        ->required();
    app_->add_option("--name", name_,
                     "What to call it (default: the file's stem)");
    app_->add_flag("--allow-partial", allow_partial_,
                   "Take it even if some of its keys do not fit the base");
    app_->add_flag("--replace", allow_replace_,
                   "Replace other content that is loaded under this name");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::LoadAdapterRequest request;
    request.set_path(path_);
    request.set_name(name_);
    request.set_allow_partial(allow_partial_);
    request.set_allow_replace(allow_replace_);
    const absl::StatusOr<v1::LoadAdapterResponse> response =
        client.LoadAdapter(request);
    if (response.ok()) Print(*response, console.out);
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

std::unique_ptr<Command> MakeAdapterLoadCommand(CLI::App& adapter) {
  return std::make_unique<AdapterLoadCommand>(adapter);
}

}  // namespace graft

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/commands/command.h"
#include "client/loaded_adapter.h"
#include "client/option_checks.h"

namespace graft {
namespace {

constexpr size_t kMaxNameBytes = 128;

bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' ||
         c == '_' || c == '-';
}

// `text` without what no name has.
std::string SuggestName(absl::string_view text) {
  std::string name;
  for (const char c : text) {
    if (IsNameCharacter(c)) {
      name += c;
    } else if (!absl::EndsWith(name, "-")) {
      name += '-';
    }
  }
  const auto is_edge = [](unsigned char c) { return !absl::ascii_isalnum(c); };
  name.erase(name.begin(), std::find_if_not(name.begin(), name.end(), is_edge));
  name.resize(std::min(name.size(), kMaxNameBytes));
  while (!name.empty() && is_edge(name.back())) name.pop_back();
  return name.empty() ? "adapter" : name;
}

// The stem of `path`, if the server takes it for a name (AdapterService); else
// it would answer about a field that the user did not fill in.
absl::StatusOr<std::string> NameOf(const std::string& path) {
  std::string stem = std::filesystem::path(path).stem().string();
  if (!stem.empty() && stem.size() <= kMaxNameBytes &&
      absl::ascii_isalnum(static_cast<unsigned char>(stem.front())) &&
      std::all_of(stem.begin(), stem.end(), IsNameCharacter)) {
    return stem;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path,
      ": its stem is no adapter's name (a letter or digit, then up to 127 "
      "letters, digits, '.', '_' or '-'); give one, for example --name ",
      SuggestName(stem)));
}

absl::Status CheckFile(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": is a folder; give a .safetensors file, or put a PEFT folder into "
        "the server's --adapter_dir and use graft adapter load"));
  }
  if (std::filesystem::is_regular_file(path, error) &&
      std::filesystem::file_size(path, error) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is empty; get the file again"));
  }
  return absl::OkStatus();
}

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
    if (absl::Status status = CheckFile(path_); !status.ok()) return status;
    const absl::StatusOr<std::string> name =
        name_.empty() ? NameOf(path_) : name_;
    if (!name.ok()) return name.status();
    v1::UploadAdapterHeader header;
    header.set_name(*name);
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

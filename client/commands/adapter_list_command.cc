#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "client/commands/command.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

absl::string_view StateName(v1::Adapter::State state) {
  switch (state) {
    case v1::Adapter::STATE_LOADING:
      return "loading";
    case v1::Adapter::STATE_ACTIVE:
      return "active";
    case v1::Adapter::STATE_UNLOADING:
      return "unloading";
    default:
      return "unknown";
  }
}

absl::string_view ResidencyName(v1::Adapter::Residency residency) {
  switch (residency) {
    case v1::Adapter::RESIDENCY_DISK:
      return "disk";
    case v1::Adapter::RESIDENCY_HOST:
      return "host";
    case v1::Adapter::RESIDENCY_DEVICE:
      return "device";
    default:
      return "unknown";
  }
}

// "device, pinned, merged".
std::string WhereText(const v1::Adapter& adapter) {
  return absl::StrCat(ResidencyName(adapter.residency()),
                      adapter.pinned() ? ", pinned" : "",
                      adapter.merged() ? ", merged" : "");
}

void PrintJson(const std::vector<v1::Adapter>& adapters, std::ostream& out) {
  Json list = Json::array();
  for (const v1::Adapter& adapter : adapters) {
    list.push_back(
        {{"name", adapter.name()},
         {"state", std::string(StateName(adapter.state()))},
         {"residency", std::string(ResidencyName(adapter.residency()))},
         {"pinned", adapter.pinned()},
         {"merged", adapter.merged()},
         {"in_flight", adapter.in_flight()},
         {"sha256", adapter.sha256()},
         {"path", adapter.path()},
         {"format", adapter.format()},
         {"algorithms", std::vector<std::string>(adapter.algorithms().begin(),
                                                 adapter.algorithms().end())},
         {"rank", adapter.max_rank()},
         {"unet_targets", adapter.unet_targets()},
         {"text_encoder_targets", adapter.text_encoder_targets()},
         {"size_bytes", adapter.size_bytes()},
         {"device_bytes", adapter.device_bytes()},
         {"trigger_words",
          std::vector<std::string>(adapter.trigger_words().begin(),
                                   adapter.trigger_words().end())}});
  }
  out << Json{{"adapters", list}}.dump(2, ' ', false,
                                       Json::error_handler_t::replace)
      << "\n";
}

void PrintTable(const std::vector<v1::Adapter>& adapters, std::ostream& out) {
  if (adapters.empty()) {
    out << "no adapter is loaded\n";
    return;
  }
  size_t width = 4;
  for (const v1::Adapter& adapter : adapters) {
    width = std::max(width, adapter.name().size());
  }
  const int columns = static_cast<int>(width);
  out << absl::StreamFormat(
      "%-*s  %-9s  %-22s  %-10s  %4s  %7s  %10s  %-12s  %s\n", columns, "NAME",
      "STATE", "WHERE", "ALGORITHM", "RANK", "TARGETS", "SIZE", "SHA256",
      "TRIGGERS");
  for (const v1::Adapter& adapter : adapters) {
    out << absl::StreamFormat(
        "%-*s  %-9s  %-22s  %-10s  %4d  %7d  %10s  %-12s  %s\n", columns,
        adapter.name(), StateName(adapter.state()), WhereText(adapter),
        absl::StrJoin(adapter.algorithms(), "+"), adapter.max_rank(),
        adapter.unet_targets() + adapter.text_encoder_targets(),
        FormatBytes(adapter.size_bytes()), adapter.sha256().substr(0, 12),
        absl::StrJoin(adapter.trigger_words(), ", "));
  }
}

class AdapterListCommand : public Command {
 public:
  explicit AdapterListCommand(CLI::App& adapter)
      : app_(adapter.add_subcommand("list", "Show the loaded adapters")) {
    app_->add_flag("--json", json_, "Print them as JSON");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    const absl::StatusOr<std::vector<v1::Adapter>> adapters =
        client.ListAdapters();
    if (!adapters.ok()) return adapters.status();
    if (json_) {
      PrintJson(*adapters, console.out);
    } else {
      PrintTable(*adapters, console.out);
    }
    return absl::OkStatus();
  }

 private:
  CLI::App* const app_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeAdapterListCommand(CLI::App& adapter) {
  return std::make_unique<AdapterListCommand>(adapter);
}

}  // namespace graft

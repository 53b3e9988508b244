#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/merged_adapters.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

Json TierJson(const v1::AdapterTier& tier) {
  return {{"adapters", tier.adapters()},
          {"bytes", tier.bytes()},
          {"max_bytes", tier.max_bytes()}};
}

void PrintJson(const v1::ServerLoad& load, std::ostream& out) {
  const Json json = {{"draining", load.draining()},
                     {"waiting_requests", load.waiting_requests()},
                     {"running_requests", load.running_requests()},
                     {"loading_requests", load.loading_requests()},
                     {"waiting_work", load.waiting_work()},
                     {"estimated_wait_ms", load.estimated_wait_ms()},
                     {"batch_size", load.batch_size()},
                     {"resident", MergedAdaptersJson(load.resident())},
                     {"host", TierJson(load.host())},
                     {"device", TierJson(load.device())}};
  out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

std::string TierText(const v1::AdapterTier& tier) {
  return absl::StrCat(
      tier.adapters(), " adapters, ", FormatBytes(tier.bytes()),
      tier.max_bytes() == 0 ? "" : " of " + FormatBytes(tier.max_bytes()));
}

void PrintText(const v1::ServerLoad& load, std::ostream& out) {
  out << "state      " << (load.draining() ? "draining" : "serving") << "\n"
      << "requests   " << load.running_requests() << " running, "
      << load.waiting_requests() << " waiting (" << load.waiting_work()
      << " steps x images x pixels), " << load.loading_requests()
      << " loading\n"
      << "wait       " << FormatMilliseconds(load.estimated_wait_ms()) << "\n"
      << "batch      " << load.batch_size() << "\n"
      << "merged     " << DescribeMergedAdapters(load.resident()) << "\n"
      << "host       " << TierText(load.host()) << "\n"
      << "device     " << TierText(load.device()) << "\n";
}

class StatusCommand : public Command {
 public:
  explicit StatusCommand(CLI::App& parent)
      : app_(parent.add_subcommand("status", "Show how busy the server is")) {
    app_->add_flag("--json", json_, "Print it as JSON");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    const absl::StatusOr<v1::ServerLoad> load = client.GetLoad();
    if (!load.ok()) return load.status();
    if (json_) {
      PrintJson(*load, console.out);
    } else {
      PrintText(*load, console.out);
    }
    return absl::OkStatus();
  }

 private:
  CLI::App* const app_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeStatusCommand(CLI::App& parent) {
  return std::make_unique<StatusCommand>(parent);
}

}  // namespace graft

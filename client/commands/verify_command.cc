#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/client_status.h"
#include "client/commands/command.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

void PrintJson(const v1::VerifyBaseWeightsResponse& report, std::ostream& out) {
  const Json json = {
      {"parameters", report.parameters()},
      {"differing", std::vector<std::string>(report.differing().begin(),
                                             report.differing().end())},
      {"repaired", report.repaired()},
      {"unrepaired", std::vector<std::string>(report.unrepaired().begin(),
                                              report.unrepaired().end())},
      {"duration_ms", report.duration_ms()}};
  out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

void PrintText(const v1::VerifyBaseWeightsResponse& report, std::ostream& out) {
  if (report.differing().empty()) {
    out << "intact: " << report.parameters() << " parameters in "
        << FormatMilliseconds(report.duration_ms()) << "\n";
    return;
  }
  for (const std::string& name : report.differing()) {
    out << "differs: " << name << "\n";
  }
}

// OK only if all was intact: what was repaired had been wrong until now.
absl::Status Judge(const v1::VerifyBaseWeightsResponse& report) {
  if (report.differing().empty()) return absl::OkStatus();
  return WithErrorReason(
      absl::DataLossError(absl::StrCat(
          report.differing_size(), " of ", report.parameters(),
          " parameters were not what was loaded; ",
          report.repaired()
              ? "they are repaired now"
              : "graftd repairs them from the model's files, or ends")),
      "BASE_WEIGHTS_DRIFT");
}

class VerifyCommand : public Command {
 public:
  explicit VerifyCommand(CLI::App& parent)
      : app_(parent.add_subcommand(
            "verify",
            "Compare the base's weights with what was loaded; the exit code is "
            "0 only if all was intact")) {
    app_->add_flag("--repair", repair_,
                   "Read what differs again from the model's files, and tell "
                   "the outcome");
    app_->add_flag("--json", json_, "Print the report as JSON");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::VerifyBaseWeightsRequest request;
    request.set_repair(repair_);
    const absl::StatusOr<v1::VerifyBaseWeightsResponse> report =
        client.VerifyBaseWeights(request);
    if (!report.ok()) return report.status();
    if (json_) {
      PrintJson(*report, console.out);
    } else {
      PrintText(*report, console.out);
    }
    return Judge(*report);
  }

 private:
  CLI::App* const app_;
  bool repair_ = false;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeVerifyCommand(CLI::App& parent) {
  return std::make_unique<VerifyCommand>(parent);
}

}  // namespace graft

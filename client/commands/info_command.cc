#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/commands/command.h"
#include "client/merged_adapters.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

Json LimitsJson(const v1::ServerLimits& limits) {
  return {{"max_steps", limits.max_steps()},
          {"min_side", limits.min_side()},
          {"max_side", limits.max_side()},
          {"side_multiple", limits.side_multiple()},
          {"max_count", limits.max_count()},
          {"max_adapters", limits.max_adapters()},
          {"max_adapter_weight", AsWritten(limits.max_adapter_weight())},
          {"max_guidance_scale", AsWritten(limits.max_guidance_scale())},
          {"max_prompt_bytes", limits.max_prompt_bytes()},
          {"max_message_bytes", limits.max_message_bytes()},
          {"max_adapter_file_bytes", limits.max_adapter_file_bytes()},
          {"max_adapter_header_bytes", limits.max_adapter_header_bytes()},
          {"max_queued_requests", limits.max_queued_requests()},
          {"max_queued_work", limits.max_queued_work()},
          {"max_schedule_ranges", limits.max_schedule_ranges()}};
}

Json VersionsJson(const v1::ServerInfo& info) {
  Json versions = Json::object();
  for (const char* const name : {"graft", "torch", "grpc", "protobuf"}) {
    const auto found = info.versions().find(name);
    if (found != info.versions().end()) versions[name] = found->second;
  }
  return versions;
}

void PrintJson(const v1::ServerInfo& info, std::ostream& out) {
  const Json json = {
      {"model", info.model()},
      {"family", info.family()},
      {"device", info.device()},
      {"device_name", info.device_name()},
      {"dtype", info.dtype()},
      {"restore", info.restore()},
      {"base_sha256", info.base_sha256()},
      {"prediction_type", info.prediction_type()},
      {"resident", MergedAdaptersJson(info.resident())},
      {"memory",
       {{"base_bytes", info.memory().base_bytes()},
        {"restore_bytes", info.memory().restore_bytes()},
        {"restore_reserved_bytes", info.memory().restore_reserved_bytes()},
        {"adapter_bytes", info.memory().adapter_bytes()}}},
      {"batching", info.batching()},
      {"max_batch_size", info.max_batch_size()},
      {"limits", LimitsJson(info.limits())},
      {"samplers", std::vector<std::string>(info.samplers().begin(),
                                            info.samplers().end())},
      {"defaults",
       {{"width", info.defaults().width()},
        {"height", info.defaults().height()},
        {"steps", info.defaults().steps()},
        {"guidance_scale", AsWritten(info.defaults().guidance_scale())},
        {"sampler", info.defaults().sampler()}}},
      {"versions", VersionsJson(info)},
  };
  out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

void PrintText(const v1::ServerInfo& info, std::ostream& out) {
  const v1::GenerationDefaults& defaults = info.defaults();
  const v1::ServerLimits& limits = info.limits();
  out << "model      " << info.model() << " (" << info.family() << ", "
      << info.prediction_type() << ")\n"
      << "sha256     " << info.base_sha256() << "\n"
      << "device     " << info.device() << " (" << info.device_name() << "), "
      << info.dtype() << "\n"
      << "merged     " << DescribeMergedAdapters(info.resident()) << "\n"
      << "memory     base " << FormatBytes(info.memory().base_bytes())
      << ", restore (" << info.restore() << ") "
      << FormatBytes(info.memory().restore_bytes()) << " and "
      << FormatBytes(info.memory().restore_reserved_bytes())
      << " in reserve, adapters " << FormatBytes(info.memory().adapter_bytes())
      << "\n"
      << "defaults   " << defaults.width() << "x" << defaults.height() << ", "
      << defaults.steps() << " steps, guidance "
      << FormatFloat(defaults.guidance_scale()) << ", " << defaults.sampler()
      << "\n"
      << "samplers   " << absl::StrJoin(info.samplers(), ", ") << "\n"
      << "limits     sides " << limits.min_side() << "-" << limits.max_side()
      << ", steps " << limits.max_steps() << ", images " << limits.max_count()
      << ", adapters " << limits.max_adapters() << ", weight "
      << FormatFloat(limits.max_adapter_weight()) << "\n"
      << "versions   "
      << absl::StrJoin(VersionsJson(info).items(), ", ",
                       [](std::string* text, const auto& item) {
                         absl::StrAppend(
                             text, item.key(), " ",
                             item.value().template get<std::string>());
                       })
      << "\n";
}

class InfoCommand : public Command {
 public:
  explicit InfoCommand(CLI::App& parent)
      : app_(parent.add_subcommand("info", "Show what the server serves")) {
    app_->add_flag("--json", json_, "Print it as JSON");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    const absl::StatusOr<v1::ServerInfo> info = client.GetServerInfo();
    if (!info.ok()) return info.status();
    if (json_) {
      PrintJson(*info, console.out);
    } else {
      PrintText(*info, console.out);
    }
    return absl::OkStatus();
  }

 private:
  CLI::App* const app_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeInfoCommand(CLI::App& parent) {
  return std::make_unique<InfoCommand>(parent);
}

}  // namespace graft

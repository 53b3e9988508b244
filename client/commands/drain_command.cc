#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/option_checks.h"

namespace graft {
namespace {

// "1 request", "3 requests".
std::string Requests(uint32_t count) {
  return absl::StrCat(count, count == 1 ? " request" : " requests");
}

class DrainCommand : public Command {
 public:
  explicit DrainCommand(CLI::App& parent)
      : app_(parent.add_subcommand(
            "drain",
            "Let the server take no new requests, for good, and wait for those "
            "that it has; the exit code is 0 only when none is left")) {
    app_->add_option("--wait", wait_seconds_,
                     "Seconds to wait at most (default: as --timeout)")
        ->check(CheckSeconds)
        ->check(CLI::Range(0.001, kMaxSeconds))
        ->type_name("SECONDS");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::DrainRequest request;
    request.set_timeout_ms(static_cast<uint32_t>(wait_seconds_ * 1000));
    const absl::StatusOr<uint32_t> left =
        client.Drain(request, [&console](uint32_t requests) {
          if (requests > 0) {
            console.out << "draining: " << Requests(requests) << " left"
                        << std::endl;
          }
        });
    if (!left.ok()) return left.status();
    if (*left > 0) {
      return absl::DeadlineExceededError(
          absl::StrCat(Requests(*left), " left after ", wait_seconds_,
                       " seconds; the server goes on draining"));
    }
    console.out << "drained\n";
    return absl::OkStatus();
  }

 private:
  static constexpr double kMaxSeconds =
      std::numeric_limits<uint32_t>::max() / 1000;

  CLI::App* const app_;
  double wait_seconds_ = 0;  // 0: no limit of its own
};

}  // namespace

std::unique_ptr<Command> MakeDrainCommand(CLI::App& parent) {
  return std::make_unique<DrainCommand>(parent);
}

}  // namespace graft

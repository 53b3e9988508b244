#include "server/engine/device_lost.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"

namespace graft {
namespace {

constexpr char kKey[] = "device";
constexpr char kLost[] = "lost";

}  // namespace

absl::Status DeviceLostError(absl::string_view message) {
  return Error(
      ErrorReason::kInternal,
      absl::StrCat("the device is lost to this process, which ends: ", message),
      {{kKey, kLost}});
}

bool IsDeviceLost(const absl::Status& status) {
  if (status.ok()) return false;
  const ErrorMetadata metadata = GetErrorMetadata(status);
  return std::find(metadata.begin(), metadata.end(),
                   std::pair<std::string, std::string>(kKey, kLost)) !=
         metadata.end();
}

}  // namespace graft

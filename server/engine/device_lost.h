#ifndef GRAFT_SERVER_ENGINE_DEVICE_LOST_H_
#define GRAFT_SERVER_ENGINE_DEVICE_LOST_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

// Errors after which nothing works on the device any more: an illegal access, a
// memory error, a hung kernel. The driver fails every later call of the
// process, so only another process can go on.
namespace graft {

// INTERNAL, and IsDeviceLost. Thread-safe, as the other.
absl::Status DeviceLostError(absl::string_view message);

bool IsDeviceLost(const absl::Status& status);

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_DEVICE_LOST_H_

#include "server/adapters/adapter_info.h"

namespace graft {

std::optional<AdapterState> NextAdapterState(AdapterState state,
                                             AdapterEvent event) {
  switch (event) {
    case AdapterEvent::kLoaded:
      if (state == AdapterState::kLoading) return AdapterState::kActive;
      break;
    case AdapterEvent::kLoadFailed:
      if (state == AdapterState::kLoading) return AdapterState::kGone;
      break;
    case AdapterEvent::kUnloadAsked:
      if (state == AdapterState::kActive) return AdapterState::kUnloading;
      break;
    case AdapterEvent::kLastUseOver:
      if (state == AdapterState::kUnloading) return AdapterState::kGone;
      break;
  }
  return std::nullopt;
}

absl::string_view AdapterStateName(AdapterState state) {
  switch (state) {
    case AdapterState::kLoading:
      return "loading";
    case AdapterState::kActive:
      return "active";
    case AdapterState::kUnloading:
      return "unloading";
    case AdapterState::kGone:
      return "gone";
  }
  return "unknown";
}

absl::string_view AdapterResidencyName(AdapterResidency residency) {
  switch (residency) {
    case AdapterResidency::kDisk:
      return "disk";
    case AdapterResidency::kHost:
      return "host";
    case AdapterResidency::kDevice:
      return "device";
  }
  return "unknown";
}

}  // namespace graft

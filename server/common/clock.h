#ifndef GRAFT_SERVER_COMMON_CLOCK_H_
#define GRAFT_SERVER_COMMON_CLOCK_H_

#include "absl/time/time.h"

namespace graft {

// A clock that never jumps: deadlines and durations do not notice when somebody
// sets the time of day. Its zero is arbitrary, so only compare and subtract.
// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

// The machine's monotonic clock.
class SteadyClock : public Clock {
 public:
  absl::Time Now() const override;
};

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_CLOCK_H_

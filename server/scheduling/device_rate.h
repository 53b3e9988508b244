#ifndef GRAFT_SERVER_SCHEDULING_DEVICE_RATE_H_
#define GRAFT_SERVER_SCHEDULING_DEVICE_RATE_H_

#include <cstdint>

#include "absl/time/time.h"

namespace graft {

// How fast the device is, as measured of late: work (steps x pixels) over the
// time that it was busy, switches and decoding included. What is old counts
// less. Thread-compatible.
class DeviceRate {
 public:
  // `work` took `busy`.
  void Add(int64_t work, absl::Duration busy);

  // How long `work` will take, to the microsecond; zero as long as nothing was
  // measured.
  absl::Duration TimeFor(int64_t work) const;

 private:
  double work_ = 0;
  absl::Duration busy_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_DEVICE_RATE_H_

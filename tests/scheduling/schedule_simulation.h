#ifndef GRAFT_TESTS_SCHEDULING_SCHEDULE_SIMULATION_H_
#define GRAFT_TESTS_SCHEDULING_SCHEDULE_SIMULATION_H_

#include <cstdint>
#include <map>
#include <string>

#include "tests/scheduling/schedule_trace.h"

// Compares ways to share one device without a device: a queueing model in
// simulated time, with the scheduler's own policy and ledger deciding.
namespace graft {

// What a device takes for images of `pixels`; steps of other sizes in
// proportion.
struct DeviceModel {
  int64_t pixels = 1024 * 1024;
  double step = 0.006;            // of any batch
  double step_per_image = 0.024;  // in it
  double unmerged = 0.0029;       // side branches, per step
  double unmerged_per_image = 0.0018;
  double adapter_switch = 0.0023;
  double text_and_decode = 0.045;  // per image
};

// Figures like those of SDXL at 1024 and SD 1.5 at 512 on a large GPU.
DeviceModel SdxlModel();
DeviceModel Sd15Model();

// What `request` takes on a device that has nothing else to do.
double TimeAlone(const SimulatedRequest& request, const DeviceModel& device);

enum class SimulatedPolicy {
  kFifo,        // one image at a time
  kJoin,        // the scheduler's: same-adapter requests join
  kRoundRobin,  // over adapters, in slices of ten steps
  kUnmerged,    // the scheduler's, for a batch that may mix adapters
};

struct SimulationResult {
  double p50 = 0;  // latency of a request
  double p99 = 0;
  double images_per_second = 0;
  double switches_per_request = 0;
  int max_passed_over = 0;  // of one request by others that joined
  // Jain's index of the tenants' mean slowdown, that is latency over the time
  // alone: 1 when all are slowed down alike.
  double fairness = 1;
  std::map<std::string, double> mean_slowdown;  // by tenant
};

SimulationResult Simulate(const Trace& trace, SimulatedPolicy policy,
                          const DeviceModel& device, int max_batch_size = 4);

}  // namespace graft

#endif  // GRAFT_TESTS_SCHEDULING_SCHEDULE_SIMULATION_H_

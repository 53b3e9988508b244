#ifndef GRAFT_SERVER_COMMON_PROCESSORS_H_
#define GRAFT_SERVER_COMMON_PROCESSORS_H_

#include <optional>
#include <string>

namespace graft {

// How many processors' time this process may take, by the CPU quotas of its
// control groups and all above them (versions 1 and 2; a container's --cpus, a
// Kubernetes limit, systemd's CPUQuota): the smallest. nullopt if there is no
// quota, or it cannot be read. `root` is the file system's, for tests.
std::optional<double> CpuQuota(const std::string& root = "/");

// How many threads can compute at once, at least one: the processors of this
// process' affinity, and no more than its quota has room for. One thread more
// than that would have all others wait for it, stopped until the next period.
int UsableProcessors();

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_PROCESSORS_H_

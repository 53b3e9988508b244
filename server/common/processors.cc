#include "server/common/processors.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace graft {
namespace {

// The first line of a file; "" if there is none.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Microseconds of processor time in each `period` microseconds; "max" and -1,
// as anything else that is no positive number, stand for no quota.
std::optional<double> Ratio(absl::string_view quota, absl::string_view period) {
  double time = 0;
  double of = 0;
  if (!absl::SimpleAtod(quota, &time) || !absl::SimpleAtod(period, &of) ||
      !(time > 0) || !(of > 0)) {
    return std::nullopt;
  }
  return time / of;
}

// The quota of one control group alone.
std::optional<double> QuotaV2(const std::string& folder) {
  const std::vector<std::string> fields =
      absl::StrSplit(FirstLine(absl::StrCat(folder, "/cpu.max")), ' ');
  return fields.size() == 2 ? Ratio(fields[0], fields[1]) : std::nullopt;
}
std::optional<double> QuotaV1(const std::string& folder) {
  return Ratio(FirstLine(absl::StrCat(folder, "/cpu.cfs_quota_us")),
               FirstLine(absl::StrCat(folder, "/cpu.cfs_period_us")));
}

// The smallest quota of the group `path` ("/a/b") and those above it. Groups
// that are not there are passed over: a container may see its own as the root,
// and still be told its path on the host.
template <typename QuotaOf>
std::optional<double> Smallest(const std::string& mount, std::string path,
                               QuotaOf quota_of) {
  std::optional<double> smallest;
  while (true) {
    const std::optional<double> quota = quota_of(absl::StrCat(mount, path));
    if (quota.has_value() && quota < smallest.value_or(*quota + 1)) {
      smallest = quota;
    }
    if (path.empty()) return smallest;
    path.resize(path.find_last_of('/') == std::string::npos
                    ? 0
                    : path.find_last_of('/'));
  }
}

// std::thread::hardware_concurrency counts what is online, not what this
// process may run on.
unsigned AffineProcessors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    return static_cast<unsigned>(CPU_COUNT(&set));
  }
  return std::thread::hardware_concurrency();  // too many for such a set
}

}  // namespace

std::optional<double> CpuQuota(const std::string& root) {
  std::ifstream groups(absl::StrCat(root, "/proc/self/cgroup"));
  // HIERARCHY:CONTROLLERS:PATH; version 2 is hierarchy 0, without controllers.
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> fields =
        absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    std::optional<double> quota;
    if (fields[0] == "0" && fields[1].empty()) {
      quota =
          Smallest(absl::StrCat(root, "/sys/fs/cgroup"), fields[2], QuotaV2);
    } else if (absl::c_linear_search(
                   std::vector<std::string>(absl::StrSplit(fields[1], ',')),
                   "cpu")) {
      quota = Smallest(absl::StrCat(root, "/sys/fs/cgroup/cpu"), fields[2],
                       QuotaV1);
    }
    if (quota.has_value()) return quota;
  }
  return std::nullopt;
}

int UsableProcessors() {
  const auto processors = static_cast<double>(AffineProcessors());
  return std::max(1, static_cast<int>(std::min(
                         processors, CpuQuota().value_or(processors))));
}

}  // namespace graft

#include "tests/chaos/process_figures.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace graft {
namespace {

int CountEntries(const std::string& path) {
  std::error_code gone;
  return static_cast<int>(
      std::distance(std::filesystem::directory_iterator(path, gone),
                    std::filesystem::directory_iterator()));
}

}  // namespace

ProcessFigures ReadProcessFigures(pid_t pid) {
  const std::string folder = absl::StrCat("/proc/", pid);
  std::ifstream statm(folder + "/statm");
  int64_t total_pages = 0;
  int64_t resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return {.resident_bytes = resident_pages * sysconf(_SC_PAGESIZE),
          .descriptors = CountEntries(folder + "/fd"),
          .threads = CountEntries(folder + "/task")};
}

Slope FitSlope(const std::vector<Point>& points) {
  if (points.size() < 3) return {};
  const auto n = static_cast<double>(points.size());
  double x_mean = 0;
  double y_mean = 0;
  for (const Point& point : points) {
    x_mean += point.x / n;
    y_mean += point.y / n;
  }
  double xx = 0;
  double xy = 0;
  for (const Point& point : points) {
    xx += (point.x - x_mean) * (point.x - x_mean);
    xy += (point.x - x_mean) * (point.y - y_mean);
  }
  const double slope = xy / xx;
  double residuals = 0;
  for (const Point& point : points) {
    const double error = point.y - y_mean - slope * (point.x - x_mean);
    residuals += error * error;
  }
  return {.per_unit = slope,
          .margin = 1.96 * std::sqrt(residuals / (n - 2) / xx)};
}

}  // namespace graft

#ifndef GRAFT_TESTS_CHAOS_PROCESS_FIGURES_H_
#define GRAFT_TESTS_CHAOS_PROCESS_FIGURES_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace graft {

// What a process holds, as /proc tells it.
struct ProcessFigures {
  int64_t resident_bytes = 0;
  int descriptors = 0;
  int threads = 0;
};
ProcessFigures ReadProcessFigures(pid_t pid);

// A straight line through points, by least squares.
struct Slope {
  double per_unit = 0;
  double margin = 0;  // half the width of its 95 % confidence interval
};
struct Point {
  double x = 0;
  double y = 0;
};
Slope FitSlope(const std::vector<Point>& points);

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_PROCESS_FIGURES_H_

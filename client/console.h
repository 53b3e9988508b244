#ifndef GRAFT_CLIENT_CONSOLE_H_
#define GRAFT_CLIENT_CONSOLE_H_

#include <ostream>
#include <string>

#include "absl/time/time.h"

namespace graft {

// Where a command writes. Nothing is owned.
struct Console {
  std::ostream& out;
  std::ostream& err;
  // err is a terminal that a person looks at.
  bool progress_bar = false;
};

// The shortest decimal that reads back as this float: 0.8f is "0.8".
std::string FormatFloat(float value);

// The double that a person would have written for it.
double AsWritten(float value);

// "1.5 MiB".
std::string FormatBytes(int64_t bytes);

// "12.3 ms", "4.56 s".
std::string FormatMilliseconds(double milliseconds);

}  // namespace graft

#endif  // GRAFT_CLIENT_CONSOLE_H_

#ifndef GRAFT_CLIENT_PROGRESS_BAR_H_
#define GRAFT_CLIENT_PROGRESS_BAR_H_

#include <cstdint>
#include <string>

#include "client/console.h"
#include "graft/v1/generation.pb.h"

namespace graft {

// One line on the console's err that is written again and again, if that is a
// terminal; else nothing.
class ProgressBar {
 public:
  // `images` in all.
  ProgressBar(const Console& console, uint32_t images);

  // Shows where the request is.
  void Show(const v1::GenerateImageResponse& event);

  // Leaves an empty line.
  void Clear();

 private:
  void Draw(const std::string& text);

  const Console console_;
  const uint32_t images_;
  size_t drawn_ = 0;  // characters on the line
};

}  // namespace graft

#endif  // GRAFT_CLIENT_PROGRESS_BAR_H_

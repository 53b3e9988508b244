#include "client/progress_bar.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace graft {
namespace {

constexpr uint32_t kCells = 30;

// "[######......] 12/25"
std::string Bar(uint32_t done, uint32_t total) {
  const uint32_t filled =
      total == 0 ? 0 : std::min(kCells, kCells * done / total);
  return absl::StrCat("[", std::string(filled, '#'),
                      std::string(kCells - filled, '.'), "] ", done, "/",
                      total);
}

}  // namespace

ProgressBar::ProgressBar(const Console& console, uint32_t images)
    : console_(console), images_(images) {}

void ProgressBar::Show(const v1::GenerateImageResponse& event) {
  if (event.has_queued() && event.queued().position() > 0) {
    const uint32_t position = event.queued().position();
    Draw(absl::StrCat("waiting behind ", position,
                      position == 1 ? " request" : " requests"));
  } else if (event.has_progress()) {
    const v1::Progress& progress = event.progress();
    Draw(absl::StrCat(
        Bar(progress.step(), progress.steps()),
        images_ > 1
            ? absl::StrCat("  image ", progress.image_index() + 1, "/", images_)
            : ""));
  }
}

void ProgressBar::Clear() {
  Draw("");
  if (console_.progress_bar) console_.err << '\r' << std::flush;
}

void ProgressBar::Draw(const std::string& text) {
  if (!console_.progress_bar) return;
  const size_t width = std::max(drawn_, text.size());
  console_.err << '\r' << text << std::string(width - text.size(), ' ')
               << std::flush;
  drawn_ = text.size();
}

}  // namespace graft

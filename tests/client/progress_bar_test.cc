#include "client/progress_bar.h"

#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

v1::GenerateImageResponse Step(uint32_t image, uint32_t step) {
  v1::GenerateImageResponse event;
  event.mutable_progress()->set_image_index(image);
  event.mutable_progress()->set_step(step);
  event.mutable_progress()->set_steps(20);
  return event;
}

class ProgressBarTest : public testing::Test {
 protected:
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(ProgressBarTest, NothingIsDrawnInAPipe) {
  ProgressBar bar(Console{out_, err_, /*progress_bar=*/false}, 1);
  bar.Show(Step(0, 10));
  bar.Clear();
  EXPECT_THAT(out_.str() + err_.str(), IsEmpty());
}

TEST_F(ProgressBarTest, ATerminalSeesTheSteps) {
  ProgressBar bar(Console{out_, err_, /*progress_bar=*/true}, 1);
  bar.Show(Step(0, 10));
  EXPECT_EQ(err_.str(), "\r[###############...............] 10/20");
  EXPECT_THAT(out_.str(), IsEmpty());
}

TEST_F(ProgressBarTest, OneOfSeveralImagesIsNamed) {
  ProgressBar bar(Console{out_, err_, /*progress_bar=*/true}, 3);
  bar.Show(Step(1, 20));
  EXPECT_THAT(err_.str(), EndsWith("] 20/20  image 2/3"));
}

TEST_F(ProgressBarTest, OneRequestIsOne) {
  ProgressBar bar(Console{out_, err_, /*progress_bar=*/true}, 1);
  v1::GenerateImageResponse event;
  event.mutable_queued()->set_position(1);
  bar.Show(event);
  EXPECT_EQ(err_.str(), "\rwaiting behind 1 request");
}

TEST_F(ProgressBarTest, WaitingIsShown) {
  ProgressBar bar(Console{out_, err_, /*progress_bar=*/true}, 1);
  v1::GenerateImageResponse event;
  event.mutable_queued()->set_position(2);
  bar.Show(event);
  EXPECT_THAT(err_.str(), HasSubstr("waiting behind 2 requests"));
}

TEST_F(ProgressBarTest, ClearLeavesNothingOfTheLine) {
  ProgressBar bar(Console{out_, err_, /*progress_bar=*/true}, 1);
  bar.Show(Step(0, 10));
  const size_t width = err_.str().size() - 1;
  bar.Clear();
  EXPECT_THAT(err_.str(), EndsWith("\r" + std::string(width, ' ') + "\r"));
}

}  // namespace
}  // namespace graft

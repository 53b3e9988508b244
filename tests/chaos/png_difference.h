#ifndef GRAFT_TESTS_CHAOS_PNG_DIFFERENCE_H_
#define GRAFT_TESTS_CHAOS_PNG_DIFFERENCE_H_

#include <string>

namespace graft {

// How far two pictures are apart, in steps of their 8-bit values.
struct PngDifference {
  int max = 0;
  double mean = 0;
};

// 255 for files that are no pictures of one size.
PngDifference ComparePngs(const std::string& a, const std::string& b);

// A PNG file up to its pixels: size and text chunks.
std::string PngHead(const std::string& png);

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_PNG_DIFFERENCE_H_

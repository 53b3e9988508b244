#ifndef GRAFT_SERVER_TOKENIZER_UNICODE_ADDITIONS_H_
#define GRAFT_SERVER_TOKENIZER_UNICODE_ADDITIONS_H_

#include <cstdint>

// What the reference's Unicode versions have and Unicode 15.0, that of ICU 72,
// has not: letters and numbers of 15.1 and 16.0, lower case of 16.0 and 17.0.
// A newer ICU knows some or all of it, which does no harm. The comparison with
// the reference in tests/tokenizer looks at every code point.
namespace graft {

struct CodePointRange {
  int32_t first;
  int32_t last;
};

struct LowerCaseRange {
  int32_t first;
  int32_t last;
  int32_t offset;  // from upper to lower case
};

inline constexpr CodePointRange kLetterAdditions[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},
    {0x105C0, 0x105F3}, {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85},
    {0x10EC2, 0x10EC4}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7},
    {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C},
    {0x18CFF, 0x18CFF}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0},
    {0x2EBF0, 0x2EE5D},
};

inline constexpr CodePointRange kNumberAdditions[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9},
    {0x16130, 0x16139}, {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9},
    {0x1E5F1, 0x1E5FA},
};

inline constexpr LowerCaseRange kLowerCaseAdditions[] = {
    {0x1C89, 0x1C89, 1},      {0xA7CB, 0xA7CB, 0x264 - 0xA7CB},
    {0xA7CC, 0xA7CC, 1},      {0xA7CE, 0xA7CE, 1},
    {0xA7D2, 0xA7D2, 1},      {0xA7D4, 0xA7D4, 1},
    {0xA7DA, 0xA7DA, 1},      {0xA7DC, 0xA7DC, 0x19B - 0xA7DC},
    {0x10D50, 0x10D65, 0x20}, {0x16EA0, 0x16EB8, 0x1B},
};

}  // namespace graft

#endif  // GRAFT_SERVER_TOKENIZER_UNICODE_ADDITIONS_H_

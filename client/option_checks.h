#ifndef GRAFT_CLIENT_OPTION_CHECKS_H_
#define GRAFT_CLIENT_OPTION_CHECKS_H_

#include <string>

// What is wrong with an option's text, as CLI11 asks its checks; empty if
// nothing. For what its own conversions would take in another sense than the
// user's.
namespace graft {

// A whole number from 0 to 2^32 - 1 in decimal digits; a leading 0 would make
// it octal.
std::string CheckNumber(const std::string& text);

// Seconds above 0, at most 10 million; NaN is no time.
std::string CheckSeconds(const std::string& text);

// Text that can be sent: UTF-8. gRPC's answer to anything else helps nobody.
std::string CheckUtf8(const std::string& text);

}  // namespace graft

#endif  // GRAFT_CLIENT_OPTION_CHECKS_H_

#ifndef GRAFT_TESTS_TESTING_LOOPBACK_H_
#define GRAFT_TESTS_TESTING_LOOPBACK_H_

#include <string>

namespace graft {

// A connection to `address`, HOST:PORT, on the loopback interface: its
// descriptor, which the caller closes. A failure is one of the test.
int ConnectToLoopback(const std::string& address);

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_LOOPBACK_H_

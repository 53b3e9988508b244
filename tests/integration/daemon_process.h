#ifndef GRAFT_TESTS_INTEGRATION_DAEMON_PROCESS_H_
#define GRAFT_TESTS_INTEGRATION_DAEMON_PROCESS_H_

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/testing/temp_dir.h"

namespace graft {

// The real graftd as a child process, for tests that need the program and not
// its parts. It dies with the test. Thread-compatible.
//
//   DaemonProcess daemon({"--model", model_dir});
//   ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
//   GraftClient client({.server = daemon.address()});
//   EXPECT_EQ(daemon.Stop(), 0);
class DaemonProcess {
 public:
  struct Options {
    // A flag "--listen" is added unless there is one: a free loopback port.
    std::vector<std::string> flags;
    // Beyond the test's own; an empty value unsets a variable.
    std::map<std::string, std::string> environment = {};
    // 0: the test's own.
    int max_descriptors = 0;
  };

  // Starts the program; it need not come up.
  explicit DaemonProcess(const Options& options);
  explicit DaemonProcess(const std::vector<std::string>& flags)
      : DaemonProcess(Options{.flags = flags}) {}

  // Kills it if it still runs.
  ~DaemonProcess();

  DaemonProcess(const DaemonProcess&) = delete;
  DaemonProcess& operator=(const DaemonProcess&) = delete;

  // Waits for the line "listening on HOST:PORT"; false if the program ends
  // without it.
  bool WaitUntilServing();

  // HOST:PORT. REQUIRES: WaitUntilServing() returned true.
  const std::string& address() const { return address_; }

  pid_t pid() const { return pid_; }

  // Sends a signal.
  void Signal(int signal) const;

  // Waits for the end. The exit code, or minus the signal that ended it.
  int Wait();

  // SIGTERM, then Wait().
  int Stop();

  // What it printed so far: all of stdout after Wait(), stderr at any time.
  const std::string& out() const { return out_; }
  std::string log() const;

 private:
  // Reads stdout until a line is complete, or the end; false at the end.
  bool ReadMore();

  TempDir dir_;
  pid_t pid_ = -1;
  int out_fd_ = -1;  // our end of the pipe
  std::string out_;
  std::string address_;
  std::optional<int> exit_code_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_INTEGRATION_DAEMON_PROCESS_H_

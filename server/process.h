#ifndef GRAFT_SERVER_PROCESS_H_
#define GRAFT_SERVER_PROCESS_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

namespace graft {

// What a process arranges with the operating system. For main alone.

// Starts this program again, in place, with OMP_WAIT_POLICY=PASSIVE, unless the
// variable is set: OpenMP reads it before main, and its default lets idle
// compute threads spin, which takes the cores from everything else. Returns
// when nothing was to do, or the program could not be started.
void ReexecWithPassiveOpenMp(char** argv);

// Has mutexes not look for deadlocks: Debian's build of Abseil does, each time
// one is locked, which is for tests.
void StopDeadlockDetection();

// Raises the soft limit of open descriptors to the hard one. The limit now.
int64_t RaiseDescriptorLimit();

// The folder of the running program; empty if it cannot be told.
std::string ExecutableDirectory();

// Waits for SIGTERM, SIGINT and SIGHUP on a thread of its own, so that what
// they start may lock and allocate, which a signal handler may not.
class SignalThread {
 public:
  // Blocks these signals for all threads that are started from now on, and has
  // SIGPIPE and SIGXFSZ ignored: what they tell of is an error of the write.
  // REQUIRES: no other thread is there yet.
  static void BlockSignals();

  // Calls `on_signal` with the number of each signal that comes.
  // REQUIRES: BlockSignals().
  explicit SignalThread(std::function<void(int signal)> on_signal);
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  void Run();

  const std::function<void(int)> on_signal_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_PROCESS_H_

#include "tests/integration/daemon_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace graft {
namespace {

constexpr char kListening[] = "listening on ";

// In the child: becomes graftd. Only calls that are safe after fork.
[[noreturn]] void Exec(const DaemonProcess::Options& options, char** argv,
                       int out_fd, int log_fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(out_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  for (const auto& [name, value] : options.environment) {
    if (value.empty()) {
      unsetenv(name.c_str());
    } else {
      setenv(name.c_str(), value.c_str(), 1);
    }
  }
  if (options.max_descriptors > 0) {
    const auto count = static_cast<rlim_t>(options.max_descriptors);
    const rlimit limit{count, count};
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  execv(argv[0], argv);
  _exit(127);
}

}  // namespace

DaemonProcess::DaemonProcess(const Options& options) {
  std::vector<std::string> arguments = {GRAFTD_PATH};
  arguments.insert(arguments.end(), options.flags.begin(), options.flags.end());
  if (std::none_of(options.flags.begin(), options.flags.end(),
                   [](const std::string& flag) {
                     return absl::StartsWith(flag, "--listen");
                   })) {
    arguments.push_back("--listen=127.0.0.1:0");
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) std::abort();
  const int log_fd =
      open(dir_.File("stderr").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  pid_ = fork();
  if (pid_ == 0) Exec(options, argv.data(), ends[1], log_fd);
  close(ends[1]);
  close(log_fd);
  out_fd_ = ends[0];
}

DaemonProcess::~DaemonProcess() {
  if (!exit_code_.has_value()) {
    Signal(SIGKILL);
    Wait();
  }
  close(out_fd_);
}

bool DaemonProcess::WaitUntilServing() {
  while (out_.find('\n') == std::string::npos) {
    if (!ReadMore()) return false;
  }
  const std::string line = out_.substr(0, out_.find('\n'));
  if (!absl::StartsWith(line, kListening)) return false;
  address_ = line.substr(sizeof(kListening) - 1);
  return true;
}

void DaemonProcess::Signal(int signal) const { kill(pid_, signal); }

int DaemonProcess::Wait() {
  if (exit_code_.has_value()) return *exit_code_;
  while (ReadMore()) continue;
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return *exit_code_;
}

int DaemonProcess::Stop() {
  Signal(SIGTERM);
  return Wait();
}

std::string DaemonProcess::log() const {
  std::ifstream file(dir_.File("stderr"));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool DaemonProcess::ReadMore() {
  char buffer[4096];
  while (true) {
    const ssize_t size = read(out_fd_, buffer, sizeof(buffer));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return false;
    out_.append(buffer, static_cast<size_t>(size));
    return true;
  }
}

}  // namespace graft

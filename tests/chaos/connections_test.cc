// Fault 16: thousands of connections on which nothing happens.
//
// GRAFT_CHAOS_CONNECTIONS=10000 in the environment makes it the full size.

#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/chaos/chaos_model.h"
#include "tests/chaos/process_figures.h"
#include "tests/integration/daemon_process.h"
#include "tests/testing/full_size.h"
#include "tests/testing/loopback.h"

namespace graft {
namespace {

int Connections() { return SizeOfTest("GRAFT_CHAOS_CONNECTIONS", 500); }

// Connections of HTTP/2 that are open and silent. Closed at the end.
class IdleConnections {
 public:
  IdleConnections(const std::string& address, int count) {
    // What a client must send first: the preface and its settings, here none.
    static constexpr char kPreface[] =
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
    for (int i = 0; i < count; ++i) {
      const int fd = ConnectToLoopback(address);
      // With the terminating zero as the last byte of the frame. Where the
      // server has closed it already, that shows at the next read.
      send(fd, kPreface, sizeof(kPreface), MSG_NOSIGNAL);
      sockets_.push_back(fd);
    }
  }
  ~IdleConnections() {
    for (const int fd : sockets_) close(fd);
  }
  IdleConnections(const IdleConnections&) = delete;
  IdleConnections& operator=(const IdleConnections&) = delete;

  // Waits until the server has answered each with its settings, or has closed
  // it; how many are open.
  int CountServed() const {
    int served = 0;
    for (const int fd : sockets_) {
      char byte = 0;
      if (recv(fd, &byte, 1, 0) == 1) ++served;
    }
    return served;
  }

 private:
  std::vector<int> sockets_;
};

class ConnectionsTest : public testing::Test {
 protected:
  std::vector<std::string> Flags(const std::vector<std::string>& more) const {
    std::vector<std::string> flags = {"--model=" + model_.path(),
                                      "--device=cpu"};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  const ChaosModel model_;
};

TEST_F(ConnectionsTest, IdleOnesCostLittleAndHoldUpNobody) {
  DaemonProcess daemon(Flags({}));
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  GraftClient client({.server = daemon.address()});
  ASSERT_TRUE(client.GetServerInfo().ok());
  const int count = Connections();
  const ProcessFigures before = ReadProcessFigures(daemon.pid());
  {
    const IdleConnections idle(daemon.address(), count);
    EXPECT_EQ(idle.CountServed(), count);
    const ProcessFigures during = ReadProcessFigures(daemon.pid());
    const absl::Time begin = absl::Now();
    const auto info = client.GetServerInfo();
    EXPECT_TRUE(info.ok()) << info.status();
    const absl::Duration call = absl::Now() - begin;
    const int64_t bytes = during.resident_bytes - before.resident_bytes;
    std::cout << count << " connections: " << bytes / count
              << " bytes each, threads " << before.threads << " -> "
              << during.threads << ", a call takes " << call << "\n";
#if !defined(__SANITIZE_ADDRESS__)  // it keeps what is freed
    EXPECT_LE(bytes / count, 64 << 10);
#endif
    EXPECT_LE(during.threads, before.threads + 16);
  }
  while (ReadProcessFigures(daemon.pid()).descriptors > before.descriptors) {
    ASSERT_TRUE(client.GetServerInfo().ok());
  }
  EXPECT_EQ(daemon.Stop(), 0);
}

TEST_F(ConnectionsTest, SurplusOnesAreRefusedUntilOthersLeave) {
  const int cap = Connections() / 2;
  DaemonProcess daemon(Flags({absl::StrCat("--max_connections=", cap)}));
  ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  {
    const IdleConnections idle(daemon.address(), Connections());
    EXPECT_EQ(idle.CountServed(), cap);
    EXPECT_EQ(GraftClient({.server = daemon.address()})
                  .GetServerInfo()
                  .status()
                  .code(),
              absl::StatusCode::kUnavailable);
  }
  const auto served =
      GraftClient({.server = daemon.address(), .retries = 20}).GetServerInfo();
  EXPECT_TRUE(served.ok()) << served.status();
  EXPECT_EQ(daemon.Stop(), 0);
}

}  // namespace
}  // namespace graft

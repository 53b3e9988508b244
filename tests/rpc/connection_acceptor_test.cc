#include "server/rpc/connection_acceptor.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/loopback.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

// A client's end of a connection.
class Client {
 public:
  explicit Client(const std::string& address)
      : fd_(ConnectToLoopback(address)) {}
  ~Client() {
    if (fd_ >= 0) close(fd_);
  }
  Client(Client&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Client& operator=(Client&&) = delete;

  // Waits until the server closes the connection.
  bool IsClosedByServer() const {
    char byte = 0;
    return recv(fd_, &byte, 1, 0) <= 0;
  }

 private:
  int fd_;
};

class ConnectionAcceptorTest : public testing::Test {
 protected:
  ~ConnectionAcceptorTest() override {
    acceptor_.reset();
    CloseAll();
  }

  void Start(int max_connections) {
    auto socket = ListenSocket::Bind("127.0.0.1:0");
    ASSERT_THAT(socket, IsOk());
    address_ = socket->address();
    acceptor_ = std::make_unique<ConnectionAcceptor>(
        *std::move(socket), max_connections, [this](int fd) {
          absl::MutexLock lock(&mu_);
          accepted_.push_back(fd);
        });
  }

  // Waits until `count` connections were handed over.
  void AwaitAccepted(size_t count) {
    const auto reached = [&]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
      return accepted_.size() == count;
    };
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(&reached));
  }

  // What gRPC does when clients leave.
  void CloseAll() {
    absl::MutexLock lock(&mu_);
    for (const int fd : accepted_) close(fd);
    accepted_.clear();
  }

  std::string address_;
  absl::Mutex mu_;
  std::vector<int> accepted_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<ConnectionAcceptor> acceptor_;
};

TEST_F(ConnectionAcceptorTest, HandsConnectionsOver) {
  Start(10);
  const Client a(address_);
  const Client b(address_);
  AwaitAccepted(2);
}

TEST_F(ConnectionAcceptorTest, SurplusConnectionsAreClosedUntilOthersLeave) {
  Start(2);
  const Client a(address_);
  const Client b(address_);
  AwaitAccepted(2);
  EXPECT_TRUE(Client(address_).IsClosedByServer());
  CloseAll();
  const Client c(address_);
  AwaitAccepted(1);
}

// gRPC 1.51's own acceptor never accepts again after this (CVE-2023-4785).
TEST_F(ConnectionAcceptorTest, ServesAgainAfterTheDescriptorsRanOut) {
  Start(1000);
  std::vector<Client> clients;
  clients.emplace_back(address_);
  AwaitAccepted(1);
  const Client victim(address_);  // its descriptor is here before they run out
  AwaitAccepted(2);

  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int next_free = dup(STDIN_FILENO);
  close(next_free);
  // The client's end takes the last descriptor; the server's finds none.
  const rlimit tight{static_cast<rlim_t>(next_free) + 1, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  const bool closed = Client(address_).IsClosedByServer();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);

  EXPECT_TRUE(closed);
  const Client after(address_);
  AwaitAccepted(3);
}

TEST(MaxConnectionsTest, LeavesDescriptorsForFiles) {
  const int fit = MaxConnectionsForDescriptors(1024);
  EXPECT_GT(fit, 900);
  EXPECT_LT(fit, 1024 - 32);
  EXPECT_EQ(MaxConnectionsForDescriptors(8), 1);
}

}  // namespace
}  // namespace graft

#include "server/rpc/listen_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

struct HostPort {
  std::string host;  // without brackets
  std::string port;
};

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::Status BadAddress(absl::string_view address, absl::string_view why) {
  return Error(ErrorReason::kInvalidField,
               absl::StrCat("cannot listen on \"", EscapeUntrusted(address),
                            "\": ", why),
               {{"field", "listen"}});
}

absl::StatusOr<HostPort> Split(absl::string_view address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 ||
      port > 65535) {
    return BadAddress(address, "give HOST:PORT, with a port from 0 to 65535");
  }
  absl::string_view host = address.substr(0, colon);
  const bool bracketed =
      absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (!bracketed && host.find_first_of(":[]") != absl::string_view::npos) {
    return BadAddress(address, "put an IPv6 address in brackets: [::1]:50051");
  }
  return HostPort{std::string(host), absl::StrCat(port)};
}

absl::StatusOr<AddressList> Resolve(absl::string_view address) {
  GRAFT_ASSIGN_OR_RETURN(const HostPort host_port, Split(address));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host_port.host.c_str(), host_port.port.c_str(),
                                &hints, &list);
  if (error != 0) return BadAddress(address, gai_strerror(error));
  return AddressList(list, &freeaddrinfo);
}

bool IsLoopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
    return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
  }
  if (address.sa_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
  }
  return false;
}

// A listening descriptor, or -1 with errno set.
int OpenListener(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  // Lets a restarted server have its port back while old connections linger.
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 &&
      listen(fd, SOMAXCONN) == 0) {
    return fd;
  }
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int BoundPort(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

}  // namespace

absl::StatusOr<ListenSocket> ListenSocket::Bind(absl::string_view address) {
  GRAFT_ASSIGN_OR_RETURN(const AddressList list, Resolve(address));
  int error = 0;
  for (const addrinfo* entry = list.get(); entry != nullptr;
       entry = entry->ai_next) {
    const int fd = OpenListener(*entry);
    if (fd >= 0) {
      const absl::string_view host = address.substr(0, address.rfind(':'));
      return ListenSocket(fd, absl::StrCat(host, ":", BoundPort(fd)));
    }
    error = errno;
  }
  if (error == EADDRINUSE) {
    return BadAddress(address,
                      "the port is in use by another program; stop it or "
                      "choose another port");
  }
  return BadAddress(address, std::strerror(error));
}

ListenSocket::ListenSocket(int fd, std::string address)
    : fd_(fd), address_(std::move(address)) {}

ListenSocket::ListenSocket(ListenSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), address_(std::move(other.address_)) {}

ListenSocket::~ListenSocket() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<bool> IsLoopbackAddress(absl::string_view address) {
  GRAFT_ASSIGN_OR_RETURN(const AddressList list, Resolve(address));
  for (const addrinfo* entry = list.get(); entry != nullptr;
       entry = entry->ai_next) {
    if (!IsLoopback(*entry->ai_addr)) return false;
  }
  return true;
}

}  // namespace graft

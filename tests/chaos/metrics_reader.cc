#include "tests/chaos/metrics_reader.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace graft {
namespace {

constexpr char kRequest[] =
    "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// The answer with its header.
std::string GetPage(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = Loopback(port);
  std::string page;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) == 0 &&
      send(fd, kRequest, sizeof(kRequest) - 1, 0) > 0) {
    char buffer[4096];
    for (ssize_t size; (size = recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
      page.append(buffer, static_cast<size_t>(size));
    }
  }
  close(fd);
  return page;
}

}  // namespace

int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  bind(fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

std::map<std::string, double> ReadMetrics(int port) {
  std::map<std::string, double> metrics;
  for (absl::string_view line : absl::StrSplit(GetPage(port), '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(absl::StripAsciiWhitespace(line), ' ');
    double value = 0;
    if (words.size() == 2 && absl::SimpleAtod(words[1], &value)) {
      metrics[std::string(words[0])] = value;
    }
  }
  return metrics;
}

std::map<std::string, double> ByCode(
    const std::map<std::string, double>& metrics, const std::string& metric,
    const std::string& method) {
  std::map<std::string, double> by_code;
  const std::string method_label = absl::StrCat("method=\"", method, "\"");
  for (const auto& [sample, value] : metrics) {
    absl::string_view code = sample;
    if (!absl::ConsumePrefix(&code, metric + "{code=\"") ||
        !absl::StrContains(code, method_label)) {
      continue;
    }
    by_code[std::string(code.substr(0, code.find('"')))] += value;
  }
  return by_code;
}

}  // namespace graft

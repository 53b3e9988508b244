#ifndef GRAFT_TESTS_FUZZ_FUZZ_INPUT_H_
#define GRAFT_TESTS_FUZZ_FUZZ_INPUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace graft {

// Takes an input apart, for targets that make something structured of it. Past
// its end all numbers are 0, so that every input means something.
class FuzzInput {
 public:
  FuzzInput(const uint8_t* data, size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }

  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(rest_[0]);
    rest_.remove_prefix(1);
    return byte;
  }

  bool Bool() { return (Byte() & 1) != 0; }

  // Below `bound`, which is from 1 to 65536.
  size_t Below(size_t bound) {
    if (bound <= 1) return 0;
    const size_t low = Byte();
    return (bound <= 256 ? low : low | size_t{Byte()} << 8) % bound;
  }

  template <typename Table>
  const auto& Pick(const Table& table) {
    return *(std::begin(table) + Below(std::size(table)));
  }

  // A text that says its length in a byte.
  std::string Text() {
    const size_t wanted = Byte();
    const size_t size = std::min(wanted, rest_.size());
    std::string text(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return text;
  }

  std::string Rest() {
    std::string text(rest_);
    rest_ = {};
    return text;
  }

 private:
  absl::string_view rest_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_FUZZ_FUZZ_INPUT_H_

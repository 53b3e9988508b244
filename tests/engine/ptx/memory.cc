#include "tests/engine/ptx/memory.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace graft::ptx {
namespace {

constexpr char kMisaligned[] = "misaligned";

}  // namespace

GlobalMemory::GlobalMemory(std::vector<Buffer> buffers)
    : buffers_(std::move(buffers)) {
  std::sort(
      buffers_.begin(), buffers_.end(),
      [](const Buffer& a, const Buffer& b) { return a.address < b.address; });
}

const char* GlobalMemory::Check(uint64_t address, uint32_t bytes, bool writes) {
  if (address % bytes != 0) return kMisaligned;
  const auto holds = [&](const Buffer& buffer) {
    return address - buffer.address < buffer.size &&
           buffer.size - (address - buffer.address) >= bytes;
  };
  if (last_ >= buffers_.size() || !holds(buffers_[last_])) {
    const auto after = std::upper_bound(
        buffers_.begin(), buffers_.end(), address,
        [](uint64_t at, const Buffer& buffer) { return at < buffer.address; });
    if (after == buffers_.begin() || !holds(after[-1])) {
      return "in none of the launch's buffers";
    }
    last_ = static_cast<size_t>(after - buffers_.begin()) - 1;
  }
  if (writes && !buffers_[last_].writable) return "in a buffer to be read only";
  return nullptr;
}

SharedMemory::SharedMemory(size_t size, uint32_t seed)
    : memory_(size), bytes_(size), garbage_(seed * 2 + 1) {
  FillWithGarbage(kBase, size);
}

const char* SharedMemory::Read(const Accessor& who, uint32_t address,
                               uint32_t bytes, void* to) {
  if (const char* const problem = Claim(who, address, bytes)) return problem;
  Byte* const known = &bytes_[address - kBase];
  for (uint32_t i = 0; i < bytes; ++i) {
    Byte& byte = known[i];
    if (WrittenByOther(byte, who)) {
      return "a race: read after another lane's write, and no sync between";
    }
    byte.reader =
        byte.read == who.epoch && byte.reader != who.lane ? kSeveral : who.lane;
    byte.read = who.epoch;
  }
  std::memcpy(to, At(address), bytes);
  return nullptr;
}

const char* SharedMemory::Write(const Accessor& who, uint32_t address,
                                uint32_t bytes, const void* from) {
  if (const char* const problem = CheckWrite(who, address, bytes, false)) {
    return problem;
  }
  std::memcpy(At(address), from, bytes);
  return nullptr;
}

const char* SharedMemory::Atomic(const Accessor& who, uint32_t address,
                                 uint32_t*& word) {
  if (const char* const problem =
          CheckWrite(who, address, sizeof(uint32_t), true)) {
    return problem;
  }
  word = reinterpret_cast<uint32_t*>(At(address));
  return nullptr;
}

const char* SharedMemory::StartCopy(const Accessor& who, uint32_t address,
                                    uint32_t bytes) {
  if (const char* const problem = CheckWrite(who, address, bytes, false)) {
    return problem;
  }
  for (uint32_t i = 0; i < bytes; ++i) {
    bytes_[address - kBase + i].writer = kCopy;
  }
  FillWithGarbage(address, bytes);
  return nullptr;
}

void SharedMemory::FinishCopy(const Accessor& who, uint32_t address,
                              uint32_t bytes, const void* from) {
  for (uint32_t i = 0; i < bytes; ++i) {
    Byte& byte = bytes_[address - kBase + i];
    byte.writer = who.lane;
    byte.written = who.epoch;
  }
  std::memcpy(At(address), from, bytes);
}

// What every access has to be, whatever it does.
const char* SharedMemory::Claim(const Accessor& who, uint32_t address,
                                uint32_t bytes) {
  if (address % bytes != 0) return kMisaligned;
  if (address < kBase || address - kBase > memory_.size() ||
      memory_.size() - (address - kBase) < bytes) {
    return "beyond shared memory";
  }
  Byte* const known = &bytes_[address - kBase];
  const auto warp = static_cast<uint16_t>(who.warp + 1);
  for (uint32_t i = 0; i < bytes; ++i) {
    if (known[i].warp != 0 && known[i].warp != warp) return "another warp's";
    if (known[i].writer == kCopy) return "a copy is on its way there";
    known[i].warp = warp;
  }
  return nullptr;
}

bool SharedMemory::WrittenByOther(const Byte& byte, const Accessor& who) {
  return byte.written == who.epoch && byte.writer != who.lane;
}

const char* SharedMemory::CheckWrite(const Accessor& who, uint32_t address,
                                     uint32_t bytes, bool atomic) {
  if (const char* const problem = Claim(who, address, bytes)) return problem;
  Byte* const known = &bytes_[address - kBase];
  for (uint32_t i = 0; i < bytes; ++i) {
    Byte& byte = known[i];
    if (WrittenByOther(byte, who) && !(atomic && byte.writer == kSeveral)) {
      return "a race: written after another lane's write, and no sync between";
    }
    if (byte.read == who.epoch && byte.reader != who.lane) {
      return "a race: written after another lane's read, and no sync between";
    }
    byte.writer = atomic ? kSeveral : who.lane;
    byte.written = who.epoch;
  }
  return nullptr;
}

void SharedMemory::FillWithGarbage(uint32_t address, size_t bytes) {
  uint8_t* const at = At(address);
  for (size_t i = 0; i < bytes; ++i) {
    garbage_ = garbage_ * 1664525u + 1013904223u;
    at[i] = static_cast<uint8_t>(garbage_ >> 24);
  }
}

}  // namespace graft::ptx

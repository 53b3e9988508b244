#include <cstdint>
#include <cstring>

#include "tests/engine/ptx/opcode.h"

namespace graft::ptx {
namespace {

struct Global {
  using Address = uint64_t;

  static const char* Read(Lane& lane, uint64_t address, uint32_t bytes,
                          void* to) {
    const char* const problem = lane.global->Check(address, bytes, false);
    if (problem == nullptr) std::memcpy(to, At(address), bytes);
    return problem;
  }
  static const char* Write(Lane& lane, uint64_t address, uint32_t bytes,
                           const void* from) {
    const char* const problem = lane.global->Check(address, bytes, true);
    if (problem == nullptr) std::memcpy(At(address), from, bytes);
    return problem;
  }
  template <class T>
  static const char* Atomic(Lane& lane, uint64_t address, T*& word) {
    word = reinterpret_cast<T*>(At(address));
    return lane.global->Check(address, sizeof(T), true);
  }
  static void* At(uint64_t address) {
    return reinterpret_cast<void*>(static_cast<uintptr_t>(address));
  }
};

struct Shared {
  using Address = uint32_t;

  static const char* Read(Lane& lane, uint32_t address, uint32_t bytes,
                          void* to) {
    return lane.shared->Read(lane.who, address, bytes, to);
  }
  static const char* Write(Lane& lane, uint32_t address, uint32_t bytes,
                           const void* from) {
    return lane.shared->Write(lane.who, address, bytes, from);
  }
  static const char* Atomic(Lane& lane, uint32_t address, uint32_t*& word) {
    return lane.shared->Atomic(lane.who, address, word);
  }
};

template <class Space>
typename Space::Address AddressAt(const Lane& lane, const Slot* operands) {
  using Address = typename Space::Address;
  return lane.Get<Address>(operands[0]) + lane.Get<Address>(operands[1]);
}

// A register of 32 bits may take less, which is extended by zeros.
template <class T>
void SetExtended(Lane& lane, Slot slot, T value) {
  if constexpr (sizeof(T) < sizeof(uint32_t)) {
    lane.Set<uint32_t>(slot, value);
  } else {
    lane.Set(slot, value);
  }
}

template <class Space, class T, int kCount>
Outcome Load(Lane& lane, const Slot* operands) {
  T values[kCount];
  const auto address = AddressAt<Space>(lane, operands + kCount);
  if (const char* const problem =
          Space::Read(lane, address, sizeof(values), values)) {
    return lane.Fail(problem, address);
  }
  for (int i = 0; i < kCount; ++i) SetExtended(lane, operands[i], values[i]);
  return Outcome::kNext;
}

template <class Space, class T, int kCount>
Outcome Store(Lane& lane, const Slot* operands) {
  T values[kCount];
  for (int i = 0; i < kCount; ++i) values[i] = lane.Get<T>(operands[2 + i]);
  const auto address = AddressAt<Space>(lane, operands);
  if (const char* const problem =
          Space::Write(lane, address, sizeof(values), values)) {
    return lane.Fail(problem, address);
  }
  return Outcome::kNext;
}

// A parameter of the function that the lane is in, or of one that it calls.
template <class T, int kCount>
Outcome LoadParameter(Lane& lane, const Slot* operands) {
  for (uint32_t i = 0; i < kCount; ++i) {
    const Slot from = operands[kCount] + i * static_cast<uint32_t>(sizeof(T));
    SetExtended(lane, operands[i], lane.Get<T>(from));
  }
  return Outcome::kNext;
}

template <class T>
Outcome StoreParameter(Lane& lane, const Slot* operands) {
  lane.Set(operands[0], lane.Get<T>(operands[1]));
  return Outcome::kNext;
}

template <class T>
T Add(T a, T b) {
  return a + b;
}
template <class T>
T Or(T a, T b) {
  return a | b;
}

template <class Space, class T, auto kFunction>
Outcome Atomic(Lane& lane, const Slot* operands) {
  T* word = nullptr;
  const auto address = AddressAt<Space>(lane, operands + 1);
  if (const char* const problem = Space::Atomic(lane, address, word)) {
    return lane.Fail(problem, address);
  }
  const T before = *word;
  *word = kFunction(before, lane.Get<T>(operands[3]));
  lane.Set(operands[0], before);
  return Outcome::kNext;
}

// What is prefetched has to be the launch's, too: there is no use in others'.
Outcome Prefetch(Lane& lane, const Slot* operands) {
  const auto address = AddressAt<Global>(lane, operands);
  const char* const problem = lane.global->Check(address, 1, false);
  return problem == nullptr ? Outcome::kNext : lane.Fail(problem, address);
}

constexpr uint32_t kCopyBytes = 16;

// Arrives when it is waited for and no sooner, as it may on a device.
Outcome CopyAsync(Lane& lane, const Slot* operands) {
  const auto to = AddressAt<Shared>(lane, operands);
  const auto from = AddressAt<Global>(lane, operands + 2);
  if (lane.Get<uint32_t>(operands[4]) != kCopyBytes) {
    return lane.Fail("not of 16 bytes");
  }
  if (const char* const problem = lane.global->Check(from, kCopyBytes, false)) {
    return lane.Fail(problem, from);
  }
  if (const char* const problem =
          lane.shared->StartCopy(lane.who, to, kCopyBytes)) {
    return lane.Fail(problem, to);
  }
  lane.copies.push_back({from, to});
  return Outcome::kNext;
}

Outcome WaitForCopies(Lane& lane, const Slot*) {
  for (const AsyncCopy& copy : lane.copies) {
    lane.shared->FinishCopy(lane.who, copy.to, kCopyBytes,
                            Global::At(copy.from));
  }
  lane.copies.clear();
  return Outcome::kNext;
}

constexpr Opcode kOpcodes[] = {
    {"ld.global.u8", 3, Load<Global, uint8_t, 1>},
    {"ld.global.u32", 3, Load<Global, uint32_t, 1>},
    {"ld.global.f32", 3, Load<Global, uint32_t, 1>},
    {"ld.global.u64", 3, Load<Global, uint64_t, 1>},
    {"ld.global.v2.u32", 4, Load<Global, uint32_t, 2>},
    {"ld.global.v4.u32", 6, Load<Global, uint32_t, 4>},
    {"st.global.u8", 3, Store<Global, uint8_t, 1>},
    {"st.global.u32", 3, Store<Global, uint32_t, 1>},
    {"st.global.f32", 3, Store<Global, uint32_t, 1>},
    {"st.global.v4.u32", 6, Store<Global, uint32_t, 4>},
    {"atom.global.add.u32", 4, Atomic<Global, uint32_t, Add<uint32_t>>},
    {"atom.global.add.u64", 4, Atomic<Global, uint64_t, Add<uint64_t>>},

    // Generic addresses: nothing makes one of a shared one (cvta.shared is
    // unknown here), so they are all global.
    {"ld.u8", 3, Load<Global, uint8_t, 1>},
    {"ld.u16", 3, Load<Global, uint16_t, 1>},
    {"ld.u32", 3, Load<Global, uint32_t, 1>},
    {"ld.f32", 3, Load<Global, uint32_t, 1>},
    {"ld.u64", 3, Load<Global, uint64_t, 1>},
    {"st.u8", 3, Store<Global, uint8_t, 1>},
    {"st.u16", 3, Store<Global, uint16_t, 1>},
    {"st.u32", 3, Store<Global, uint32_t, 1>},
    {"st.u64", 3, Store<Global, uint64_t, 1>},

    {"ld.shared.u16", 3, Load<Shared, uint16_t, 1>},
    {"ld.shared.u32", 3, Load<Shared, uint32_t, 1>},
    {"ld.shared.v4.u32", 6, Load<Shared, uint32_t, 4>},
    {"st.shared.u16", 3, Store<Shared, uint16_t, 1>},
    {"st.shared.u32", 3, Store<Shared, uint32_t, 1>},
    {"st.shared.v2.u16", 4, Store<Shared, uint16_t, 2>},
    {"st.shared.v2.u32", 4, Store<Shared, uint32_t, 2>},
    {"st.shared.v4.u32", 6, Store<Shared, uint32_t, 4>},
    {"st.shared.v4.f32", 6, Store<Shared, uint32_t, 4>},
    {"atom.shared.add.u32", 4, Atomic<Shared, uint32_t, Add<uint32_t>>},
    {"atom.shared.or.b32", 4, Atomic<Shared, uint32_t, Or<uint32_t>>},

    {"ld.param.u8", 2, LoadParameter<uint8_t, 1>},
    {"ld.param.u32", 2, LoadParameter<uint32_t, 1>},
    {"ld.param.f32", 2, LoadParameter<uint32_t, 1>},
    {"ld.param.u64", 2, LoadParameter<uint64_t, 1>},
    {"ld.param.v2.u8", 3, LoadParameter<uint8_t, 2>},
    {"st.param.b32", 2, StoreParameter<uint32_t>},
    {"st.param.f32", 2, StoreParameter<uint32_t>},
    {"st.param.b64", 2, StoreParameter<uint64_t>},

    {"prefetch.global.L2", 2, Prefetch},
    {"cp.async.cg.shared.global", 5, CopyAsync},
    {"cp.async.wait_all", 0, WaitForCopies},
};

}  // namespace

absl::Span<const Opcode> MemoryOpcodes() { return kOpcodes; }

}  // namespace graft::ptx

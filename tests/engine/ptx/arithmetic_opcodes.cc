#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "tests/engine/ptx/half.h"
#include "tests/engine/ptx/opcode.h"

// Pure functions of registers. Integers are computed unsigned where the sign
// makes no difference. Floating point is compiled without contraction.

namespace graft::ptx {
namespace {

template <auto kFunction, class R, class... A, size_t... I>
Outcome Apply(Lane& lane, const Slot* operands, R (*)(A...),
              std::index_sequence<I...>) {
  lane.Set<R>(operands[0], kFunction(lane.Get<A>(operands[1 + I])...));
  return Outcome::kNext;
}

template <class R, class... A>
constexpr size_t CountOf(R (*)(A...)) {
  return sizeof...(A);
}

// d = function(a, b, ...), which have its types.
template <auto kFunction>
constexpr Opcode Pure(absl::string_view name) {
  constexpr size_t kCount = CountOf(kFunction);
  return {name, 1 + kCount, [](Lane& lane, const Slot* operands) {
            return Apply<kFunction>(lane, operands, kFunction,
                                    std::make_index_sequence<kCount>());
          }};
}

// ---- Integers ---------------------------------------------------------------

template <class T>
T Add(T a, T b) {
  return static_cast<T>(a + b);
}
template <class T>
T Sub(T a, T b) {
  return static_cast<T>(a - b);
}
template <class T>
T Mul(T a, T b) {
  return static_cast<T>(a * b);
}
template <class Wide, class T>
Wide MulWide(T a, T b) {
  return Wide{a} * Wide{b};
}
template <class T>
T MulAdd(T a, T b, T c) {
  return a * b + c;
}
// PTX leaves open what divisions by zero give.
template <class T>
T Div(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return static_cast<T>(0 - std::make_unsigned_t<T>(a));
  }
  return a / b;
}
template <class T>
T Rem(T a, T b) {
  if (b == 0) return a;
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return a % b;
}
template <class T>
T Min(T a, T b) {
  return std::min(a, b);
}
template <class T>
T Max(T a, T b) {
  return std::max(a, b);
}
template <class T>
T Neg(T a) {
  return static_cast<T>(0 - a);
}

// ---- Bits -------------------------------------------------------------------

template <class T>
T And(T a, T b) {
  return static_cast<T>(a & b);
}
template <class T>
T Or(T a, T b) {
  return static_cast<T>(a | b);
}
template <class T>
T Xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <class T>
T Not(T a) {
  return static_cast<T>(~a);
}
template <>
bool Not(bool a) {
  return !a;
}
// Shifts by more than the width are as by the width.
template <class T>
T Shl(T a, uint32_t b) {
  return b < 8 * sizeof(T) ? static_cast<T>(a << b) : T{0};
}
template <class T>
T Shr(T a, uint32_t b) {
  constexpr uint32_t kMost = 8 * sizeof(T) - 1;
  if (b <= kMost) return static_cast<T>(a >> b);
  return static_cast<T>(std::is_signed_v<T> ? a >> kMost : 0);
}
uint32_t Popc(uint32_t a) { return static_cast<uint32_t>(std::popcount(a)); }
// `length` bits of a, from bit `at` of b on.
template <class T>
T Insert(T a, T b, uint32_t at, uint32_t length) {
  const uint32_t from = at & 0xffu, count = length & 0xffu;
  const T ones =
      count < 8 * sizeof(T) ? static_cast<T>((T{1} << count) - 1) : ~T{0};
  const T mask = Shl<T>(ones, from);
  return (b & ~mask) | (Shl<T>(a, from) & mask);
}
template <class T>
T Move(T a) {
  return a;
}
uint64_t Pack(uint32_t low, uint32_t high) {
  return uint64_t{high} << 32 | low;
}
template <class T>
T Select(T a, T b, bool p) {
  return p ? a : b;
}
template <class To, class From>
To Convert(From a) {
  return static_cast<To>(a);
}

// ---- Comparisons ------------------------------------------------------------

template <class T>
bool Equal(T a, T b) {
  return a == b;
}
template <class T>
bool NotEqual(T a, T b) {
  return a != b;
}
template <class T>
bool Less(T a, T b) {
  return a < b;
}
template <class T>
bool LessOrEqual(T a, T b) {
  return a <= b;
}
template <class T>
bool Greater(T a, T b) {
  return a > b;
}
template <class T>
bool GreaterOrEqual(T a, T b) {
  return a >= b;
}

// ---- Floating point ---------------------------------------------------------

float Canonical(float value) {
  return std::isnan(value) ? std::bit_cast<float>(kFloatNan) : value;
}
float AddFloats(float a, float b) { return Canonical(a + b); }
float NegFloat(float a) { return Canonical(-a); }
float SubFloats(float a, float b) { return Canonical(a - b); }
float MulFloats(float a, float b) { return Canonical(a * b); }
float MulAddFloats(float a, float b, float c) {
  return Canonical(std::fma(a, b, c));
}
// a is for the upper half.
uint32_t ToFloat16Pair(float a, float b) {
  return uint32_t{Float16FromFloat(a)} << 16 | Float16FromFloat(b);
}
uint32_t ToBFloat16Pair(float a, float b) {
  return uint32_t{BFloat16FromFloat(a)} << 16 | BFloat16FromFloat(b);
}
uint32_t AbsFloat16Pair(uint32_t a) { return a & 0x7fff7fffu; }
// All bits of a half where it holds, which it does not for NaN.
uint32_t GreaterOrEqualFloat16Pair(uint32_t a, uint32_t b) {
  const auto holds = [&](int shift) {
    return FloatFromFloat16(static_cast<uint16_t>(a >> shift)) >=
           FloatFromFloat16(static_cast<uint16_t>(b >> shift));
  };
  return (holds(0) ? 0x0000ffffu : 0u) | (holds(16) ? 0xffff0000u : 0u);
}

// mov.b64 {low, high}, a.
Outcome Unpack(Lane& lane, const Slot* operands) {
  const auto value = lane.Get<uint64_t>(operands[2]);
  lane.Set(operands[0], static_cast<uint32_t>(value));
  lane.Set(operands[1], static_cast<uint32_t>(value >> 32));
  return Outcome::kNext;
}

constexpr Opcode kOpcodes[] = {
    Pure<Add<uint16_t>>("add.s16"),
    Pure<Add<uint32_t>>("add.s32"),
    Pure<Add<uint32_t>>("add.u32"),
    Pure<Add<uint64_t>>("add.s64"),
    Pure<Add<uint64_t>>("add.u64"),
    Pure<Sub<uint32_t>>("sub.s32"),
    Pure<Sub<uint32_t>>("sub.u32"),
    Pure<Sub<uint64_t>>("sub.s64"),
    Pure<Mul<uint32_t>>("mul.lo.s32"),
    Pure<Mul<uint64_t>>("mul.lo.s64"),
    Pure<MulWide<uint32_t, uint16_t>>("mul.wide.u16"),
    Pure<MulWide<uint64_t, uint32_t>>("mul.wide.u32"),
    Pure<MulWide<int64_t, int32_t>>("mul.wide.s32"),
    Pure<MulAdd<uint32_t>>("mad.lo.s32"),
    Pure<MulAdd<uint64_t>>("mad.lo.s64"),
    Pure<Div<int32_t>>("div.s32"),
    Pure<Div<uint32_t>>("div.u32"),
    Pure<Div<int64_t>>("div.s64"),
    Pure<Rem<uint32_t>>("rem.u32"),
    Pure<Rem<int64_t>>("rem.s64"),
    Pure<Min<int32_t>>("min.s32"),
    Pure<Min<uint32_t>>("min.u32"),
    Pure<Max<int32_t>>("max.s32"),
    Pure<Max<uint32_t>>("max.u32"),
    Pure<Neg<uint32_t>>("neg.s32"),
    Pure<Neg<uint64_t>>("neg.s64"),

    Pure<And<bool>>("and.pred"),
    Pure<And<uint16_t>>("and.b16"),
    Pure<And<uint32_t>>("and.b32"),
    Pure<And<uint64_t>>("and.b64"),
    Pure<Or<bool>>("or.pred"),
    Pure<Or<uint16_t>>("or.b16"),
    Pure<Or<uint32_t>>("or.b32"),
    Pure<Or<uint64_t>>("or.b64"),
    Pure<Xor<bool>>("xor.pred"),
    Pure<Xor<uint16_t>>("xor.b16"),
    Pure<Xor<uint32_t>>("xor.b32"),
    Pure<Xor<uint64_t>>("xor.b64"),
    Pure<Not<bool>>("not.pred"),
    Pure<Not<uint16_t>>("not.b16"),
    Pure<Not<uint32_t>>("not.b32"),
    Pure<Not<uint64_t>>("not.b64"),
    Pure<Shl<uint32_t>>("shl.b32"),
    Pure<Shl<uint64_t>>("shl.b64"),
    Pure<Shr<uint16_t>>("shr.u16"),
    Pure<Shr<uint32_t>>("shr.b32"),
    Pure<Shr<uint64_t>>("shr.b64"),
    Pure<Shr<int32_t>>("shr.s32"),
    Pure<Shr<uint32_t>>("shr.u32"),
    Pure<Shr<int64_t>>("shr.s64"),
    Pure<Shr<uint64_t>>("shr.u64"),
    Pure<Popc>("popc.b32"),
    Pure<Insert<uint32_t>>("bfi.b32"),
    Pure<Insert<uint64_t>>("bfi.b64"),

    Pure<Move<bool>>("mov.pred"),
    Pure<Move<uint16_t>>("mov.u16"),
    Pure<Move<uint32_t>>("mov.b32"),
    Pure<Move<uint32_t>>("mov.u32"),
    Pure<Move<uint32_t>>("mov.f32"),
    Pure<Move<uint64_t>>("mov.b64"),
    Pure<Move<uint64_t>>("mov.u64"),
    // The parser names these two.
    Pure<Pack>("mov.b64.pack"),
    {"mov.b64.unpack", 3, Unpack},
    // Addresses of global memory are generic ones.
    Pure<Move<uint64_t>>("cvta.to.global.u64"),
    Pure<Select<uint16_t>>("selp.u16"),
    Pure<Select<uint32_t>>("selp.b32"),
    Pure<Select<uint32_t>>("selp.u32"),
    Pure<Select<uint64_t>>("selp.b64"),
    Pure<Convert<uint16_t, uint32_t>>("cvt.u16.u32"),
    Pure<Convert<uint32_t, uint16_t>>("cvt.u32.u16"),
    Pure<Convert<uint32_t, uint64_t>>("cvt.u32.u64"),
    Pure<Convert<uint64_t, uint32_t>>("cvt.u64.u32"),
    Pure<Convert<int64_t, int32_t>>("cvt.s64.s32"),

    Pure<Equal<uint16_t>>("setp.eq.b16"),
    Pure<Equal<uint16_t>>("setp.eq.s16"),
    Pure<Equal<uint32_t>>("setp.eq.b32"),
    Pure<Equal<uint32_t>>("setp.eq.s32"),
    Pure<Equal<uint64_t>>("setp.eq.b64"),
    Pure<Equal<uint64_t>>("setp.eq.s64"),
    Pure<Equal<float>>("setp.eq.f32"),
    Pure<NotEqual<uint16_t>>("setp.ne.b16"),
    Pure<NotEqual<uint16_t>>("setp.ne.s16"),
    Pure<NotEqual<uint32_t>>("setp.ne.b32"),
    Pure<NotEqual<uint32_t>>("setp.ne.s32"),
    Pure<NotEqual<uint64_t>>("setp.ne.b64"),
    Pure<NotEqual<uint64_t>>("setp.ne.s64"),
    Pure<Less<int16_t>>("setp.lt.s16"),
    Pure<Less<uint16_t>>("setp.lt.u16"),
    Pure<Less<int32_t>>("setp.lt.s32"),
    Pure<Less<uint32_t>>("setp.lt.u32"),
    Pure<Less<int64_t>>("setp.lt.s64"),
    Pure<Less<uint64_t>>("setp.lt.u64"),
    Pure<LessOrEqual<int16_t>>("setp.le.s16"),
    Pure<LessOrEqual<uint16_t>>("setp.le.u16"),
    Pure<LessOrEqual<int32_t>>("setp.le.s32"),
    Pure<LessOrEqual<uint32_t>>("setp.le.u32"),
    Pure<LessOrEqual<int64_t>>("setp.le.s64"),
    Pure<LessOrEqual<uint64_t>>("setp.le.u64"),
    Pure<Greater<int16_t>>("setp.gt.s16"),
    Pure<Greater<uint16_t>>("setp.gt.u16"),
    Pure<Greater<int32_t>>("setp.gt.s32"),
    Pure<Greater<uint32_t>>("setp.gt.u32"),
    Pure<Greater<int64_t>>("setp.gt.s64"),
    Pure<Greater<uint64_t>>("setp.gt.u64"),
    Pure<GreaterOrEqual<int16_t>>("setp.ge.s16"),
    Pure<GreaterOrEqual<uint16_t>>("setp.ge.u16"),
    Pure<GreaterOrEqual<int32_t>>("setp.ge.s32"),
    Pure<GreaterOrEqual<uint32_t>>("setp.ge.u32"),
    Pure<GreaterOrEqual<int64_t>>("setp.ge.s64"),
    Pure<GreaterOrEqual<uint64_t>>("setp.ge.u64"),

    Pure<AddFloats>("add.rn.f32"),
    Pure<SubFloats>("sub.rn.f32"),
    Pure<MulFloats>("mul.rn.f32"),
    Pure<MulAddFloats>("fma.rn.f32"),
    Pure<NegFloat>("neg.f32"),
    Pure<FloatFromFloat16>("cvt.f32.f16"),
    Pure<ToFloat16Pair>("cvt.rn.f16x2.f32"),
    Pure<ToBFloat16Pair>("cvt.rn.bf16x2.f32"),
    Pure<AbsFloat16Pair>("abs.f16x2"),
    Pure<GreaterOrEqualFloat16Pair>("set.ge.u32.f16x2"),
};

}  // namespace

absl::Span<const Opcode> ArithmeticOpcodes() { return kOpcodes; }

}  // namespace graft::ptx

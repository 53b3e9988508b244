#include "server/adapters/tensor_values.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace graft {
namespace {

// Element `index`; views are not aligned.
template <typename T>
T Load(const TensorView& tensor, size_t index) {
  T value;
  std::memcpy(&value, tensor.bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

// IEEE formats: an exponent of ones is NaN or infinity, and zero, but for its
// sign, has no bit set. No branch in the loop: adapters have 10^8 elements.
template <typename Bits>
TensorContent ScanBits(const TensorView& tensor, Bits exponent) {
  constexpr auto kAllButSign =
      static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  const size_t count = tensor.bytes.size() / sizeof(Bits);
  bool non_finite = false;
  Bits any = 0;
  for (size_t i = 0; i < count; ++i) {
    const Bits bits = Load<Bits>(tensor, i);
    non_finite |= (bits & exponent) == exponent;
    any |= bits;
  }
  if (non_finite) return TensorContent::kNonFinite;
  return (any & kAllButSign) == 0 ? TensorContent::kAllZero
                                  : TensorContent::kFinite;
}

// Float64 has values that float32, in which adapters are computed, has not.
TensorContent ScanDoubles(const TensorView& tensor) {
  const size_t count = tensor.bytes.size() / sizeof(double);
  TensorContent content = TensorContent::kAllZero;
  for (size_t i = 0; i < count; ++i) {
    const auto value = Load<double>(tensor, i);
    // Also false for NaN.
    if (!(std::abs(value) <= std::numeric_limits<float>::max())) {
      return TensorContent::kNonFinite;
    }
    if (value != 0) content = TensorContent::kFinite;
  }
  return content;
}

double HalfToDouble(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  double magnitude = 0;
  if (exponent == 0x1F) {
    magnitude = fraction == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(fraction, -24);
  } else {
    magnitude = std::ldexp(fraction + 0x400, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double BFloat16ToDouble(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace

TensorContent ScanTensor(const TensorView& tensor) {
  switch (tensor.dtype) {
    case TensorDtype::kF16:
      return ScanBits<uint16_t>(tensor, 0x7C00);
    case TensorDtype::kBF16:
      return ScanBits<uint16_t>(tensor, 0x7F80);
    case TensorDtype::kF32:
      return ScanBits<uint32_t>(tensor, 0x7F800000);
    default:
      return ScanDoubles(tensor);
  }
}

std::optional<double> ReadScalar(const TensorView& tensor) {
  if (tensor.num_elements() != 1) return std::nullopt;
  switch (tensor.dtype) {
    case TensorDtype::kF64:
      return Load<double>(tensor, 0);
    case TensorDtype::kF32:
      return Load<float>(tensor, 0);
    case TensorDtype::kF16:
      return HalfToDouble(Load<uint16_t>(tensor, 0));
    case TensorDtype::kBF16:
      return BFloat16ToDouble(Load<uint16_t>(tensor, 0));
    case TensorDtype::kI64:
      return static_cast<double>(Load<int64_t>(tensor, 0));
    case TensorDtype::kU64:
      return static_cast<double>(Load<uint64_t>(tensor, 0));
    case TensorDtype::kI32:
      return Load<int32_t>(tensor, 0);
    case TensorDtype::kU32:
      return Load<uint32_t>(tensor, 0);
    case TensorDtype::kI16:
      return Load<int16_t>(tensor, 0);
    case TensorDtype::kU16:
      return Load<uint16_t>(tensor, 0);
    case TensorDtype::kI8:
      return Load<int8_t>(tensor, 0);
    case TensorDtype::kU8:
      return Load<uint8_t>(tensor, 0);
    case TensorDtype::kBool:
    case TensorDtype::kF8E4M3:
    case TensorDtype::kF8E5M2:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace graft

#ifndef GRAFT_SERVER_SAFETENSORS_TENSOR_VIEW_H_
#define GRAFT_SERVER_SAFETENSORS_TENSOR_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft {

// Element types of the safetensors format.
enum class TensorDtype {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
};

inline constexpr TensorDtype kAllTensorDtypes[] = {
    TensorDtype::kBool,   TensorDtype::kU8,     TensorDtype::kI8,
    TensorDtype::kF8E4M3, TensorDtype::kF8E5M2, TensorDtype::kI16,
    TensorDtype::kU16,    TensorDtype::kF16,    TensorDtype::kBF16,
    TensorDtype::kI32,    TensorDtype::kU32,    TensorDtype::kF32,
    TensorDtype::kI64,    TensorDtype::kU64,    TensorDtype::kF64,
};

// Bytes per element.
size_t TensorDtypeSize(TensorDtype dtype);

// The format's own spelling: "F32", "BF16", "F8_E4M3"...
absl::string_view TensorDtypeName(TensorDtype dtype);

// The dtype that the format spells `name`; nullopt for any other spelling.
std::optional<TensorDtype> TensorDtypeFromName(absl::string_view name);

// True for the types that can hold weights here: F64, F32, F16, BF16.
bool IsFloatingPoint(TensorDtype dtype);

// A tensor in memory owned by someone else: row-major, little-endian, not
// necessarily aligned.
struct TensorView {
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;

  // Product of the dimensions: 1 for a scalar, 0 if a dimension is 0. Does not
  // overflow for a view out of a SafetensorsFile.
  int64_t num_elements() const;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SAFETENSORS_TENSOR_VIEW_H_

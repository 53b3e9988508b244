#include "server/safetensors/tensor_view.h"

namespace graft {

size_t TensorDtypeSize(TensorDtype dtype) {
  switch (dtype) {
    case TensorDtype::kBool:
    case TensorDtype::kU8:
    case TensorDtype::kI8:
    case TensorDtype::kF8E4M3:
    case TensorDtype::kF8E5M2:
      return 1;
    case TensorDtype::kI16:
    case TensorDtype::kU16:
    case TensorDtype::kF16:
    case TensorDtype::kBF16:
      return 2;
    case TensorDtype::kI32:
    case TensorDtype::kU32:
    case TensorDtype::kF32:
      return 4;
    case TensorDtype::kI64:
    case TensorDtype::kU64:
    case TensorDtype::kF64:
      return 8;
  }
  return 0;
}

absl::string_view TensorDtypeName(TensorDtype dtype) {
  switch (dtype) {
    case TensorDtype::kBool:
      return "BOOL";
    case TensorDtype::kU8:
      return "U8";
    case TensorDtype::kI8:
      return "I8";
    case TensorDtype::kF8E4M3:
      return "F8_E4M3";
    case TensorDtype::kF8E5M2:
      return "F8_E5M2";
    case TensorDtype::kI16:
      return "I16";
    case TensorDtype::kU16:
      return "U16";
    case TensorDtype::kF16:
      return "F16";
    case TensorDtype::kBF16:
      return "BF16";
    case TensorDtype::kI32:
      return "I32";
    case TensorDtype::kU32:
      return "U32";
    case TensorDtype::kF32:
      return "F32";
    case TensorDtype::kI64:
      return "I64";
    case TensorDtype::kU64:
      return "U64";
    case TensorDtype::kF64:
      return "F64";
  }
  return "";
}

std::optional<TensorDtype> TensorDtypeFromName(absl::string_view name) {
  for (const TensorDtype dtype : kAllTensorDtypes) {
    if (TensorDtypeName(dtype) == name) return dtype;
  }
  return std::nullopt;
}

bool IsFloatingPoint(TensorDtype dtype) {
  return dtype == TensorDtype::kF64 || dtype == TensorDtype::kF32 ||
         dtype == TensorDtype::kF16 || dtype == TensorDtype::kBF16;
}

int64_t TensorView::num_elements() const {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  return count;
}

}  // namespace graft

#include "server/safetensors/tensor_view.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::Optional;

struct DtypeRow {
  TensorDtype dtype;
  absl::string_view name;
  size_t size;
  bool floating_point;
};

constexpr DtypeRow kDtypes[] = {
    {TensorDtype::kBool, "BOOL", 1, false},
    {TensorDtype::kU8, "U8", 1, false},
    {TensorDtype::kI8, "I8", 1, false},
    {TensorDtype::kF8E4M3, "F8_E4M3", 1, false},
    {TensorDtype::kF8E5M2, "F8_E5M2", 1, false},
    {TensorDtype::kI16, "I16", 2, false},
    {TensorDtype::kU16, "U16", 2, false},
    {TensorDtype::kF16, "F16", 2, true},
    {TensorDtype::kBF16, "BF16", 2, true},
    {TensorDtype::kI32, "I32", 4, false},
    {TensorDtype::kU32, "U32", 4, false},
    {TensorDtype::kF32, "F32", 4, true},
    {TensorDtype::kI64, "I64", 8, false},
    {TensorDtype::kU64, "U64", 8, false},
    {TensorDtype::kF64, "F64", 8, true},
};

TEST(TensorDtypeTest, EachHasItsNameSizeAndKind) {
  for (const DtypeRow& row : kDtypes) {
    EXPECT_EQ(TensorDtypeName(row.dtype), row.name);
    EXPECT_EQ(TensorDtypeSize(row.dtype), row.size) << row.name;
    EXPECT_EQ(IsFloatingPoint(row.dtype), row.floating_point) << row.name;
    EXPECT_THAT(TensorDtypeFromName(row.name), Optional(row.dtype));
  }
}

TEST(TensorDtypeTest, ListsAll) {
  const std::set<TensorDtype> all(std::begin(kAllTensorDtypes),
                                  std::end(kAllTensorDtypes));
  EXPECT_EQ(all.size(), std::size(kDtypes));
}

TEST(TensorDtypeTest, OtherNamesAreUnknown) {
  for (const absl::string_view name : {"", "f32", "F32 ", "float32", "F4"}) {
    EXPECT_EQ(TensorDtypeFromName(name), std::nullopt) << name;
  }
}

TEST(TensorViewTest, CountsElements) {
  EXPECT_EQ((TensorView{TensorDtype::kF32, {}, {}}.num_elements()), 1);
  EXPECT_EQ((TensorView{TensorDtype::kF32, {7}, {}}.num_elements()), 7);
  EXPECT_EQ((TensorView{TensorDtype::kF32, {2, 3, 4}, {}}.num_elements()), 24);
  EXPECT_EQ((TensorView{TensorDtype::kF32, {5, 0, 9}, {}}.num_elements()), 0);
}

}  // namespace
}  // namespace graft

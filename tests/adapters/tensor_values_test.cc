#include "server/adapters/tensor_values.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/safetensors/safetensors_file.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A file with one tensor.
SafetensorsFile File(TensorDtype dtype, std::vector<int64_t> shape,
                     std::vector<double> values) {
  auto bytes = std::make_shared<const std::string>(
      AdapterFileBuilder().Add("t", dtype, shape, values).Build());
  const absl::Span<const uint8_t> span(
      reinterpret_cast<const uint8_t*>(bytes->data()), bytes->size());
  return SafetensorsFile::Parse(bytes, span, "t", {}).value();
}

TensorContent Scan(TensorDtype dtype, std::vector<double> values) {
  const auto size = static_cast<int64_t>(values.size());
  return ScanTensor(File(dtype, {size}, values).tensors().at("t"));
}

class ScanTensorTest : public testing::TestWithParam<TensorDtype> {};

TEST_P(ScanTensorTest, FindsNanAndInfinityAnywhere) {
  EXPECT_EQ(Scan(GetParam(), {kNan, 1, 1}), TensorContent::kNonFinite);
  EXPECT_EQ(Scan(GetParam(), {1, kInfinity, 0}), TensorContent::kNonFinite);
  EXPECT_EQ(Scan(GetParam(), {1, 1, -kInfinity}), TensorContent::kNonFinite);
}

TEST_P(ScanTensorTest, TellsZeroFromNot) {
  EXPECT_EQ(Scan(GetParam(), {0, -0.0, 0}), TensorContent::kAllZero);
  EXPECT_EQ(Scan(GetParam(), {0, 0, -1}), TensorContent::kFinite);
  EXPECT_EQ(Scan(GetParam(), {}), TensorContent::kAllZero);
}

TEST_P(ScanTensorTest, LargeIsFinite) {
  EXPECT_EQ(Scan(GetParam(), {65504, -65504}), TensorContent::kFinite);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ScanTensorTest,
                         testing::Values(TensorDtype::kF64, TensorDtype::kF32,
                                         TensorDtype::kF16,
                                         TensorDtype::kBF16));

TEST(ScanDoublesTest, BeyondFloat32IsNotFinite) {
  EXPECT_EQ(Scan(TensorDtype::kF64, {1e39}), TensorContent::kNonFinite);
  EXPECT_EQ(Scan(TensorDtype::kF64, {3e38}), TensorContent::kFinite);
}

std::optional<double> Scalar(TensorDtype dtype, double value) {
  return ReadScalar(File(dtype, {}, {value}).tensors().at("t"));
}

TEST(ReadScalarTest, ReadsEveryNumericType) {
  for (const TensorDtype dtype :
       {TensorDtype::kF64, TensorDtype::kF32, TensorDtype::kF16,
        TensorDtype::kBF16, TensorDtype::kI64, TensorDtype::kI32,
        TensorDtype::kI16, TensorDtype::kI8}) {
    EXPECT_EQ(Scalar(dtype, -8), -8) << TensorDtypeName(dtype);
  }
  for (const TensorDtype dtype : {TensorDtype::kU64, TensorDtype::kU32,
                                  TensorDtype::kU16, TensorDtype::kU8}) {
    EXPECT_EQ(Scalar(dtype, 200), 200) << TensorDtypeName(dtype);
  }
}

TEST(ReadScalarTest, ReadsHalfsExactly) {
  EXPECT_EQ(Scalar(TensorDtype::kF16, 0.5), 0.5);
  EXPECT_EQ(Scalar(TensorDtype::kF16, 65504), 65504);
  EXPECT_EQ(Scalar(TensorDtype::kF16, -0.0), 0);
  EXPECT_EQ(Scalar(TensorDtype::kF16, kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(*Scalar(TensorDtype::kF16, kNan)));
  EXPECT_EQ(Scalar(TensorDtype::kBF16, 0.15625), 0.15625);
}

TEST(ReadScalarTest, RefusesWhatIsNoNumber) {
  EXPECT_EQ(Scalar(TensorDtype::kBool, 1), std::nullopt);
  EXPECT_EQ(Scalar(TensorDtype::kF8E4M3, 1), std::nullopt);
  EXPECT_EQ(ReadScalar(File(TensorDtype::kF32, {2}, {1}).tensors().at("t")),
            std::nullopt);
  EXPECT_EQ(ReadScalar(File(TensorDtype::kF32, {0}, {1}).tensors().at("t")),
            std::nullopt);
}

}  // namespace
}  // namespace graft

#include "server/engine/weights/weight_function.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <memory>

#include "server/engine/compute_pool.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

// OFT of `blocks` blocks of `rows` rows, as factors that are views of a tensor.
class OftTest : public ::testing::TestWithParam<int64_t> {
 protected:
  ~OftTest() override { at::set_num_threads(threads_); }

  // D of a fixed weight, computed by so many threads.
  static at::Tensor Change(int threads, int64_t rows) {
    constexpr int64_t kBlocks = 4;
    at::set_num_threads(threads);
    auto generator = at::detail::createCPUGenerator(5);
    const at::Tensor factors =
        at::randn({kBlocks, rows, rows}, generator) * 0.02;
    const at::Tensor weight = at::randn({kBlocks * rows, 8}, generator);
    AdapterTarget target;
    target.algorithm = AdapterAlgorithm::kOft;
    AdapterFactor factor;
    factor.role = FactorRole::kOftBlocks;
    factor.tensor.dtype = TensorDtype::kF32;
    factor.tensor.shape = {kBlocks, rows, rows};
    factor.tensor.bytes = {
        static_cast<const uint8_t*>(factors.const_data_ptr()),
        factors.nbytes()};
    target.factors.push_back(factor);
    const auto function = MakeWeightFunction(target, weight);
    EXPECT_THAT(function.status(), IsOk());
    at::Tensor change;
    ComputeAlone([&] { change = (*function)->Change(weight); });
    return change;
  }

  const int threads_ = at::get_num_threads();
};

// From about 150 rows on, LibTorch's inverse of several blocks asks MKL from
// several threads at once, which answers wrongly or not at all.
TEST_P(OftTest, BlocksOfAnySizeHaveTheSameBitsWithManyThreads) {
  const at::Tensor alone = Change(/*threads=*/1, GetParam());
  EXPECT_TRUE(at::equal(Change(/*threads=*/2, GetParam()), alone));
  EXPECT_TRUE(at::equal(Change(/*threads=*/3, GetParam()), alone));
}

INSTANTIATE_TEST_SUITE_P(Rows, OftTest, ::testing::Values(32, 150, 160, 320));

}  // namespace
}  // namespace graft

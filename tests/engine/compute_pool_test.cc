#include "server/engine/compute_pool.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace graft {
namespace {

// Whatever the machine has.
class ComputePoolTest : public ::testing::Test {
 protected:
  ComputePoolTest() { at::set_num_threads(4); }
};

// Else each part of a batch would wait for the others after every operation.
TEST_F(ComputePoolTest, EachComputesAlone) {
  ComputePool threads(3);
  std::atomic<int> most{0};
  std::mutex mu;
  std::set<std::thread::id> ids;
  for (int round = 0; round < 2; ++round) {
    threads.RunOnAll([&](int) {
      at::parallel_for(0, 1 << 20, 1, [&](int64_t, int64_t) {
        const std::lock_guard<std::mutex> lock(mu);
        ids.insert(std::this_thread::get_id());
      });
      const int here = at::get_num_threads();
      int before = most;
      while (before < here && !most.compare_exchange_weak(before, here)) {
      }
    });
  }
  EXPECT_EQ(most, 1);
  EXPECT_LE(ids.size(), 3u);
  EXPECT_EQ(at::get_num_threads(), 4);
}

TEST_F(ComputePoolTest, CallsOncePerNumberAndComputesEachAlone) {
  ComputePool threads(3);
  std::vector<std::atomic<int>> calls(100);
  std::atomic<int> shared{0};
  threads.ForEach(calls.size(), [&](size_t i) {
    ++calls[i];
    if (at::get_num_threads() != 1) ++shared;
  });
  for (const std::atomic<int>& count : calls) EXPECT_EQ(count, 1);
  EXPECT_EQ(shared, 0);
  EXPECT_THROW(threads.ForEach(calls.size(),
                               [](size_t i) {
                                 if (i == 7) throw std::runtime_error("7");
                               }),
               std::runtime_error);
}

TEST_F(ComputePoolTest, TheFirstErrorReachesTheCaller) {
  ComputePool threads(2);
  std::atomic<int> calls{0};
  EXPECT_THROW(threads.RunOnAll([&](int i) {
    ++calls;
    if (i == 1) throw std::runtime_error("injected");
  }),
               std::runtime_error);
  EXPECT_EQ(calls, 2);
}

}  // namespace
}  // namespace graft

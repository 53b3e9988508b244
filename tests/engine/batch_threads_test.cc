#include "server/engine/pipeline/batch_threads.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

namespace graft {
namespace {

// Whatever the machine has.
class BatchThreadsTest : public ::testing::Test {
 protected:
  BatchThreadsTest() { at::set_num_threads(4); }
};

// Else each part of a batch would wait for the others after every operation.
TEST_F(BatchThreadsTest, EachComputesAlone) {
  BatchThreads threads(3);
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

TEST_F(BatchThreadsTest, TheFirstErrorReachesTheCaller) {
  BatchThreads threads(2);
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

#include "server/common/processors.h"

#include <sched.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

// A file system with control groups in it.
class CpuQuotaTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_.path() + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::optional<double> Quota() const { return CpuQuota(root_.path()); }

  TempDir root_;
};

TEST_F(CpuQuotaTest, ThereIsNone) {
  EXPECT_EQ(Quota(), std::nullopt);  // no control groups at all
  Write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(Quota(), std::nullopt);
  Write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(Quota(), std::nullopt);
}

TEST_F(CpuQuotaTest, OfAContainer) {
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/cpu.max", "250000 100000\n");
  EXPECT_EQ(Quota(), 2.5);
}

TEST_F(CpuQuotaTest, TheSmallestOfAllAbove) {
  Write("proc/self/cgroup", "0::/system.slice/graftd.service\n");
  Write("sys/fs/cgroup/system.slice/graftd.service/cpu.max", "400000 100000\n");
  EXPECT_EQ(Quota(), 4);
  Write("sys/fs/cgroup/system.slice/cpu.max", "300000 100000\n");
  EXPECT_EQ(Quota(), 3);
  Write("sys/fs/cgroup/system.slice/cpu.max", "500000 100000\n");
  EXPECT_EQ(Quota(), 4);
}

TEST_F(CpuQuotaTest, OfVersionOne) {
  Write("proc/self/cgroup",
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n");
  Write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Quota(), std::nullopt);
  // The container's group, which it sees as the root.
  Write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(Quota(), 1.5);
}

TEST_F(CpuQuotaTest, NonsenseIsNoQuota) {
  Write("proc/self/cgroup", "\n:\n0::\n0::/../..\nx:y:z\n");
  for (const char* const text : {"", "1", "a b", "-5 100000", "100000 0",
                                 "nan 100000", "100000 100000 3"}) {
    Write("sys/fs/cgroup/cpu.max", text);
    EXPECT_EQ(Quota(), std::nullopt) << text;
  }
}

TEST(UsableProcessorsTest, OfTheAffinityOnly) {
  cpu_set_t all;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int i = 0; CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
  }
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(UsableProcessors(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
}

TEST(UsableProcessorsTest, AtLeastOneAndNoMoreThanThereAre) {
  EXPECT_GE(UsableProcessors(), 1);
  EXPECT_LE(UsableProcessors(),
            static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace graft

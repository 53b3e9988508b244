// Daemons under load that are ended at random moments, from their start on: by
// kill -9 (fault 1) and by SIGTERM (faults 23 and 24).
//
// GRAFT_CHAOS_ENDS=200 in the environment makes it the full size.

#include <signal.h>

#include <algorithm>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/chaos/chaos_model.h"
#include "tests/chaos/victim_load.h"
#include "tests/integration/daemon_process.h"
#include "tests/testing/full_size.h"

namespace graft {
namespace {

using Ending = VictimLoad::Ending;
using testing::AnyOf;
using testing::IsEmpty;

int Ends() { return SizeOfTest("GRAFT_CHAOS_ENDS", 5); }

class SuddenEndTest : public testing::Test {
 protected:
  void TearDown() override {
    const VictimLoad::Report report = load_.report();
    EXPECT_THAT(report.mistakes, IsEmpty());
    std::cout << "starts take " << start_
              << "; ends while it started: " << early_
              << ", with leftovers: " << with_leftovers_ << "\n";
    for (const auto& [ending, count] : report.endings) {
      std::cout << "  " << ending << ": " << count << "\n";
    }
  }

  std::vector<std::string> Flags(const std::vector<std::string>& more) const {
    std::vector<std::string> flags = flags_;
    for (const std::string& flag : load_.Flags()) flags.push_back(flag);
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  // The next start serves: no half file, and the images are what they were.
  void CheckStart() {
    const absl::Time begin = absl::Now();
    DaemonProcess daemon(Flags({}));
    ASSERT_TRUE(daemon.WaitUntilServing()) << daemon.log();
    start_ = std::min(start_, absl::Now() - begin);
    EXPECT_EQ(load_.CountLeftovers(), 0);
    load_.CheckFiles();
    load_.CheckGolden(daemon.address());
    EXPECT_EQ(daemon.Stop(), 0) << daemon.log();
  }

  // Starts a daemon and its clients and sends `signal` after a random time in
  // which it starts or serves. How the daemon ended.
  int EndOne(const std::vector<std::string>& flags, int signal, Ending ending) {
    DaemonProcess daemon(Flags(flags));
    std::thread clients([&] {
      if (daemon.WaitUntilServing()) {
        load_.Run(daemon.address(), ending, random_);
      } else {
        ++early_;
      }
    });
    absl::SleepFor(2.5 * start_ * uniform_(moments_));
    daemon.Signal(signal);
    clients.join();
    const int code = daemon.Wait();
    began_ = !daemon.log().empty();
    return code;
  }

  const ChaosModel model_;
  const std::vector<std::string> flags_ = {"--model=" + model_.path(),
                                           "--device=cpu", "--min_side=16",
                                           "--batching=off"};
  VictimLoad load_{model_, flags_};
  std::mt19937_64 random_{1};   // the clients'
  std::mt19937_64 moments_{2};  // when the daemon is ended
  std::uniform_real_distribution<> uniform_;
  absl::Duration start_ = absl::Seconds(2);  // of the fastest
  bool began_ = false;                       // the last one said something
  int early_ = 0;
  int with_leftovers_ = 0;
};

TEST_F(SuddenEndTest, AfterAKillTheNextStartServes) {
  CheckStart();
  for (int i = 0; i < Ends(); ++i) {
    EXPECT_EQ(EndOne({}, SIGKILL, Ending::kKilled), -SIGKILL);
    if (load_.CountLeftovers() > 0) ++with_leftovers_;
    CheckStart();
  }
}

TEST_F(SuddenEndTest, ADrainLosesNothingThatWasAccepted) {
  CheckStart();
  for (int i = 0; i < Ends(); ++i) {
    const bool soon = i % 4 == 3;
    const int code =
        EndOne({soon ? "--exit_timeout=20ms" : "--exit_timeout=1h"}, SIGTERM,
               soon ? Ending::kDrainedSoon : Ending::kDrained);
    // Before its main function nobody can do anything about it.
    EXPECT_THAT(code, began_ ? testing::Matcher<int>(0) : AnyOf(0, -SIGTERM));
    EXPECT_EQ(load_.CountLeftovers(), 0);
    load_.CheckFiles();
  }
  CheckStart();
}

}  // namespace
}  // namespace graft

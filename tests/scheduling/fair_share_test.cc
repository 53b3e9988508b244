#include "server/scheduling/fair_share.h"

#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace graft {
namespace {

constexpr int64_t kQuantum = 8 * 8;

// Serves `turns` times among tenants that always have a request of their cost;
// the work that each got.
std::map<std::string, int64_t> ServeBacklogged(
    FairShare& shares, const std::vector<TenantHead>& heads, int turns) {
  std::map<std::string, int64_t> work;
  for (int i = 0; i < turns; ++i) {
    const size_t chosen = shares.Choose(heads);
    shares.Serve(heads, chosen);
    work[heads[chosen].tenant] += heads[chosen].cost;
  }
  return work;
}

// The same algorithm as it is written down, walking every round.
class WalkingDeficitRoundRobin {
 public:
  explicit WalkingDeficitRoundRobin(std::deque<std::string> tenants)
      : ring_(std::move(tenants)), deficits_({{ring_.front(), kQuantum}}) {}

  std::string Serve(const std::map<std::string, int64_t>& costs) {
    while (deficits_[ring_.front()] < costs.at(ring_.front())) {
      ring_.push_back(ring_.front());
      ring_.pop_front();
      deficits_[ring_.front()] += kQuantum;
    }
    deficits_[ring_.front()] -= costs.at(ring_.front());
    return ring_.front();
  }

 private:
  std::deque<std::string> ring_;
  std::map<std::string, int64_t> deficits_;
};

TEST(FairShareTest, EqualTenantsTakeTurns) {
  FairShare shares;
  shares.Enter("a");
  shares.Enter("b");
  const std::vector<TenantHead> heads = {{"a", 10 * kQuantum},
                                         {"b", 10 * kQuantum}};
  std::string order;
  for (int i = 0; i < 6; ++i) {
    const size_t chosen = shares.Choose(heads);
    shares.Serve(heads, chosen);
    order += heads[chosen].tenant;
  }
  EXPECT_EQ(order, "ababab");
}

TEST(FairShareTest, WorkIsSharedWhateverTheSizesOfTheRequests) {
  FairShare shares;
  for (const char* tenant : {"small", "medium", "large"}) shares.Enter(tenant);
  const std::vector<TenantHead> heads = {{"small", 3 * kQuantum},
                                         {"medium", 17 * kQuantum},
                                         {"large", 160 * kQuantum}};
  const auto work = ServeBacklogged(shares, heads, 2000);
  for (const auto& [tenant, amount] : work) {
    EXPECT_NEAR(static_cast<double>(amount),
                static_cast<double>(work.at("large")), 161 * kQuantum)
        << tenant;
  }
}

// The rounds that are skipped are computed right.
TEST(FairShareTest, EqualsTheAlgorithmThatWalksEveryRound) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 50; ++trial) {
    FairShare shares;
    std::deque<std::string> ring;
    std::map<std::string, int64_t> costs;
    for (int i = 0; i <= trial % 5; ++i) {
      ring.push_back(std::string(1, static_cast<char>('a' + i)));
      shares.Enter(ring.back());
    }
    // Enter puts each before the cursor, which is at the first.
    WalkingDeficitRoundRobin walking(ring);
    for (int turn = 0; turn < 200; ++turn) {
      std::vector<TenantHead> heads;
      for (const std::string& tenant : ring) {
        if (costs[tenant] == 0) costs[tenant] = 1 + random() % 100000;
        heads.push_back({tenant, costs[tenant]});
      }
      shares.Bound(heads);  // changes nothing of what the round gives
      const size_t chosen = shares.Choose(heads);
      shares.Serve(heads, chosen);
      ASSERT_EQ(heads[chosen].tenant, walking.Serve(costs))
          << "trial " << trial << " turn " << turn;
      costs[heads[chosen].tenant] = 0;
    }
  }
}

TEST(FairShareTest, ServiceOutsideOfTheRoundCostsLaterTurns) {
  FairShare shares;
  shares.Enter("a");
  shares.Enter("b");
  shares.Charge("a", 50 * kQuantum);
  const std::vector<TenantHead> heads = {{"a", 10 * kQuantum},
                                         {"b", 10 * kQuantum}};
  const auto work = ServeBacklogged(shares, heads, 20);
  EXPECT_NEAR(static_cast<double>(work.at("b") - work.at("a")), 50 * kQuantum,
              10 * kQuantum);
}

// However long the others had the device for themselves.
TEST(FairShareTest, WhoComesLaterOrAgainHasNoClaim) {
  FairShare shares;
  shares.Enter("a");
  shares.Charge("a", 1000 * kQuantum);
  const std::vector<TenantHead> heads = {{"a", 10 * kQuantum},
                                         {"b", 10 * kQuantum}};
  for (int i = 0; i < 3; ++i) {
    shares.Enter("b");
    const auto work = ServeBacklogged(shares, heads, 20);
    EXPECT_NEAR(static_cast<double>(work.at("a")),
                static_cast<double>(work.at("b")), 10 * kQuantum);
    shares.Leave("b");
  }
}

TEST(FairShareTest, ATenantThatLeavesIsForgotten) {
  FairShare shares;
  shares.Enter("a");
  shares.Enter("b");
  shares.Charge("a", 50 * kQuantum);
  shares.Leave("a");
  shares.Charge("a", 1);  // no effect
  shares.Enter("a");
  EXPECT_EQ(shares.deficit("a"), 0);
  EXPECT_EQ(shares.deficit("b"), kQuantum);  // its visit has begun
  shares.Leave("b");
  shares.Leave("b");
  EXPECT_EQ(shares.Choose(std::vector<TenantHead>{{"a", 5}}), 0u);
}

TEST(FairShareTest, ANewTenantIsServedWithinARound) {
  FairShare shares;
  shares.Enter("old");
  ServeBacklogged(shares, {{"old", 10 * kQuantum}}, 100);
  shares.Enter("new");
  const std::vector<TenantHead> heads = {{"old", 10 * kQuantum},
                                         {"new", 10 * kQuantum}};
  const auto work = ServeBacklogged(shares, heads, 2);
  EXPECT_EQ(work.count("new"), 1u);
}

// ---- Bounds ----

TEST(FairShareTest, ADebtIsAtMostEightOfTheLargestCharges) {
  FairShare shares;
  shares.Enter("idle");
  shares.Enter("urgent");
  const std::vector<TenantHead> heads = {{"idle", kQuantum},
                                         {"urgent", kQuantum}};
  shares.Charge("urgent", 100 * kQuantum);
  for (int i = 0; i < 7; ++i) shares.Charge("urgent", 90 * kQuantum);
  shares.Bound(heads);
  EXPECT_EQ(shares.deficit("urgent"), -730 * kQuantum);
  for (int i = 0; i < 20; ++i) shares.Charge("urgent", 90 * kQuantum);
  shares.Bound(heads);
  EXPECT_EQ(shares.deficit("urgent"), -800 * kQuantum);
  EXPECT_EQ(shares.deficit("idle"), kQuantum);
  // Once it has paid, other charges count.
  shares.Serve({{"urgent", kQuantum}}, 0);
  for (int i = 0; i < 20; ++i) shares.Charge("urgent", kQuantum);
  shares.Bound(heads);
  EXPECT_EQ(shares.deficit("urgent"), -8 * kQuantum);
}

TEST(FairShareTest, DebtsAreComparedAmongThoseWhoWait) {
  FairShare shares;
  for (const char* tenant : {"idle", "a", "b"}) shares.Enter(tenant);
  for (int i = 0; i < 100; ++i) shares.Charge("a", kQuantum);
  for (int i = 0; i < 200; ++i) shares.Charge("b", kQuantum);
  shares.Enter("new");
  EXPECT_EQ(shares.deficit("new"), -200 * kQuantum);
  shares.Bound({{"a", kQuantum}, {"b", kQuantum}, {"new", kQuantum}});
  EXPECT_EQ(shares.deficit("a"), -100 * kQuantum);
  EXPECT_EQ(shares.deficit("b"), -108 * kQuantum);
  EXPECT_EQ(shares.deficit("new"), -100 * kQuantum);  // it has had nothing
}

TEST(FairShareTest, WhatMayBeGivenBackIsNotForgiven) {
  FairShare shares;
  shares.Enter("idle");
  shares.Enter("a");
  for (int i = 0; i < 20; ++i) shares.Charge("a", 10 * kQuantum);
  shares.Bound({{"idle", kQuantum},
                {.tenant = "a", .cost = kQuantum, .not_had = 150 * kQuantum}});
  EXPECT_EQ(shares.deficit("a"), -200 * kQuantum);
  shares.Bound({{"idle", kQuantum},
                {.tenant = "a", .cost = kQuantum, .not_had = 50 * kQuantum}});
  EXPECT_EQ(shares.deficit("a"), -130 * kQuantum);
  shares.Charge("a", -50 * kQuantum);
  EXPECT_EQ(shares.deficit("a"), -80 * kQuantum);
}

TEST(FairShareTest, CreditIsWhatTheHeadCosts) {
  FairShare shares;
  shares.Enter("a");
  shares.Enter("b");
  shares.Charge("b", -1000 * kQuantum);
  const std::vector<TenantHead> heads = {{"a", 10 * kQuantum},
                                         {"b", 10 * kQuantum}};
  shares.Bound(heads);
  const auto work = ServeBacklogged(shares, heads, 10);
  EXPECT_NEAR(static_cast<double>(work.at("b")),
              static_cast<double>(work.at("a")), 20 * kQuantum);
}

// ---- What each has had ----

TEST(FairShareTest, TurnsAndChargesCountAsHad) {
  FairShare shares;
  for (const char* tenant : {"a", "b", "c"}) shares.Enter(tenant);
  shares.Charge("a", 50);
  shares.Serve({{"b", 70}}, 0);
  EXPECT_EQ(shares.had("a"), 50);
  EXPECT_EQ(shares.had("b"), 70);
  EXPECT_EQ(shares.had("c"), 0);
  shares.Charge("b", -30);
  EXPECT_EQ(shares.had("b"), 40);
}

TEST(FairShareTest, WhatOthersHadBeforeGivesNoClaim) {
  FairShare shares;
  shares.Enter("a");
  for (int i = 0; i < 10; ++i) shares.Charge("a", 50);
  EXPECT_EQ(shares.had("new"), 450);
  shares.Enter("new");
  shares.Charge("new", 70);
  EXPECT_EQ(shares.had("a"), 500);
  EXPECT_EQ(shares.had("new"), 520);
  // Not even what is given back.
  shares.Charge("new", -100);
  EXPECT_EQ(shares.had("new"), 450);
}

TEST(FairShareTest, WhatATenantHadIsRememberedWhileOthersAreThere) {
  FairShare shares;
  shares.Enter("a");
  shares.Enter("b");
  shares.Charge("a", 50);
  shares.Leave("a");
  shares.Enter("a");
  EXPECT_EQ(shares.had("a"), 50);
  shares.Leave("a");
  shares.Leave("b");
  EXPECT_EQ(shares.had("a"), 0);
}

}  // namespace
}  // namespace graft

#include "server/scheduling/request_ledger.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::ElementsAre;

constexpr int64_t kStep = 64 * 64;

RequestView Request(int64_t id, const std::string& key, int steps = 30,
                    const std::string& tenant = "t") {
  return {
      .id = id, .tenant = tenant, .images = {{0, key, steps * kStep, false}}};
}

// Lets the device make one step of what the ledger chooses; the requests in the
// batch.
std::vector<int64_t> MakeStep(RequestLedger& ledger) {
  std::vector<int64_t> ids;
  for (const BatchImage& image : ledger.Next().images) {
    ids.push_back(image.request_id);
  }
  for (const int64_t id : ids) {
    for (const RequestView& request : ledger.state().requests) {
      if (request.id != id) continue;
      std::vector<ImageView> images = request.images;
      images[0].begun = true;
      images[0].work_left -= kStep;
      if (images[0].work_left == 0) {
        ledger.Remove(id);
      } else {
        ledger.MadeStep(id, images);
      }
      break;
    }
  }
  return ids;
}

TEST(RequestLedgerTest, CountsWhatWaitsAndWhatHasBegun) {
  RequestLedger ledger(1);
  EXPECT_TRUE(ledger.empty());
  ledger.Add(Request(1, "a", 10));
  ledger.Add(Request(2, "b", 20));
  EXPECT_EQ(ledger.waiting(), 2);
  EXPECT_EQ(ledger.waiting_work(), 30 * kStep);
  EXPECT_THAT(MakeStep(ledger), ElementsAre(1));
  EXPECT_EQ(ledger.waiting(), 1);
  EXPECT_EQ(ledger.started(), 1);
  EXPECT_EQ(ledger.waiting_work(), 20 * kStep);
  EXPECT_EQ(ledger.work_left(), 29 * kStep);
  ledger.Remove(2);
  ledger.Remove(1);
  EXPECT_TRUE(ledger.empty());
  EXPECT_EQ(ledger.waiting_work(), 0);
}

// An older request joins the batch of one whose tenant's turn it is. When that
// one needs another set, it goes on: it was begun first.
TEST(RequestLedgerTest, WhoJoinsDoesNotSliceWhatItHasJoined) {
  RequestLedger ledger(2);
  ledger.Add(Request(1, "a", 30, "flood"));
  EXPECT_THAT(MakeStep(ledger), ElementsAre(1));
  ledger.Add(Request(2, "b", 30, "flood"));
  ledger.Add(Request(3, "b", 30, "other"));
  ledger.Remove(1);
  EXPECT_THAT(MakeStep(ledger), ElementsAre(3, 2));
  ledger.MadeStep(3, {{0, "c", 28 * kStep, true}});
  EXPECT_THAT(MakeStep(ledger), ElementsAre(3));
}

TEST(RequestLedgerTest, RemembersWhoWasPassedOver) {
  RequestLedger ledger(2);
  ledger.Add(Request(1, "a", 300));
  ledger.Add(Request(2, "b", 300));
  int joined = 0;
  for (int64_t id = 3; id < 40; ++id) {
    ledger.Add(Request(id, "a", 100));
    while (ledger.started() > 1) MakeStep(ledger);
    MakeStep(ledger);
    if (ledger.started() > 1) ++joined;
    while (ledger.started() > 1) MakeStep(ledger);
    if (ledger.state().requests[0].id != 1) break;
  }
  // The first ended, and the second's turn came after that.
  EXPECT_LE(joined, kMaxPassedOver);
  EXPECT_GT(joined, 0);
}

// The same set is no reason to be overlooked: urgent ones that join take the
// places of a batch that the job could be in.
TEST(RequestLedgerTest, AStreamOfUrgentRequestsWithItsSetDoesNotStarveAJob) {
  RequestLedger ledger(2);
  int64_t id = 0;
  ledger.Add(Request(++id, "a", 3));
  ledger.Add(Request(++id, "a", 5));
  MakeStep(ledger);
  RequestView job = Request(++id, "a", 50);
  const int64_t job_id = id;
  job.priority = Priority::kBatch;
  ledger.Add(job);
  for (int joined = 0;; ++joined) {
    ASSERT_LE(joined, kMaxOvertaken + 1);
    ledger.Add(Request(++id, "a", 4));
    while (ledger.waiting() == 2) MakeStep(ledger);
    const RequestView& first = ledger.state().requests.front();
    if (first.id == job_id && first.started) break;
    for (const RequestView& request : ledger.state().requests) {
      if (request.id == job_id && request.started) return;
    }
  }
}

// What a tenant had while nobody else wanted it is no debt to who comes later.
TEST(RequestLedgerTest, ATenantThatWasAloneIsNotShutOut) {
  RequestLedger ledger(2);
  int64_t id = 0;
  const auto fill = [&](const std::string& tenant) {
    ++id;
    ledger.Add(Request(id, "a", 3 + static_cast<int>(id % 3), tenant));
  };
  for (int i = 0; i < 2000; ++i) {
    if (ledger.waiting() == 0) fill("old");
    MakeStep(ledger);
  }
  std::map<std::string, std::set<int64_t>> served;
  for (int i = 0; i < 10; ++i) {
    fill("old");
    fill("new");
  }
  for (int i = 0; i < 20; ++i) {
    for (const int64_t member : MakeStep(ledger)) {
      for (const RequestView& request : ledger.state().requests) {
        if (request.id == member) served[request.tenant].insert(member);
      }
    }
  }
  EXPECT_GE(served["old"].size(), 4u);
  EXPECT_GE(served["new"].size(), 4u);
}

// A stream of urgent requests slows the job down, and does not starve it.
TEST(RequestLedgerTest, WhoYieldedEightTimesGetsEightSteps) {
  RequestLedger ledger(1);
  RequestView job = Request(1, "a", 50);
  job.priority = Priority::kBatch;
  ledger.Add(job);
  std::vector<int> bursts;  // steps of the job between urgent requests
  int burst = 0;
  int64_t id = 1;
  for (int i = 0; i < 1000; ++i) {
    if (ledger.waiting() == 0) ledger.Add(Request(++id, "b", 3));
    const bool is_job = MakeStep(ledger)[0] == 1;
    if (is_job) {
      ++burst;
    } else if (burst > 0) {
      bursts.push_back(burst);
      burst = 0;
    }
    if (ledger.state().requests.empty() || ledger.state().requests[0].id != 1) {
      break;
    }
  }
  // One before the first urgent request came, and one at the end.
  EXPECT_THAT(bursts, ElementsAre(1, 8, 8, 8, 8, 8, 8));
}

// Not even if the urgent ones need one set and join each other for ever.
TEST(RequestLedgerTest, AStreamThatJoinsDoesNotStarveABatchJob) {
  RequestLedger ledger(4);
  int64_t id = 1;
  ledger.Add(Request(id, "a", 10));
  RequestView job = Request(++id, "b", 20);
  job.priority = Priority::kBatch;
  ledger.Add(job);
  int job_steps = 0;
  for (int step = 0; step < 400; ++step) {
    while (ledger.waiting() < 3) ledger.Add(Request(++id, "a", 10));
    const std::vector<int64_t> ids = MakeStep(ledger);
    job_steps += std::count(ids.begin(), ids.end(), 2) > 0 ? 1 : 0;
  }
  EXPECT_EQ(job_steps, 20);
}

TEST(RequestLedgerTest, WhatWasNotUsedIsPaidBack) {
  RequestLedger ledger(1);
  ledger.Add(Request(1, "a", 30, "one"));
  ledger.Add(Request(2, "a", 30, "one"));
  MakeStep(ledger);
  const int64_t deficit = ledger.state().shares.deficit("one");
  ledger.Remove(1, 29 * kStep);
  EXPECT_EQ(ledger.state().shares.deficit("one"), deficit + 29 * kStep);
  ledger.Remove(2, 5 * kStep);  // had paid nothing
  ledger.Add(Request(3, "a", 30, "one"));
  EXPECT_LE(ledger.state().shares.deficit("one"), kStep);
}

TEST(RequestLedgerTest, BackloggedTenantsGetEqualWork) {
  RequestLedger ledger(4);
  std::map<std::string, int64_t> work;
  std::map<int64_t, std::string> tenant_of;
  int64_t id = 0;
  // "flood" has many requests for one adapter, which join each other; "wide"
  // has another adapter each time, and larger requests.
  const auto refill = [&](const std::string& tenant, int steps,
                          bool same_adapter) {
    int queued = 0;
    for (const RequestView& request : ledger.state().requests) {
      queued += request.tenant == tenant && !request.started;
    }
    for (; queued < 12; ++queued) {
      ++id;
      tenant_of[id] = tenant;
      ledger.Add(Request(id,
                         same_adapter ? "flood" : "wide" + std::to_string(id),
                         steps, tenant));
    }
  };
  for (int step = 0; step < 20000; ++step) {
    refill("flood", 20, true);
    refill("wide", 30, false);
    for (const int64_t member : MakeStep(ledger)) work[tenant_of[member]]++;
  }
  EXPECT_NEAR(
      static_cast<double>(work["flood"]) / static_cast<double>(work["wide"]), 1,
      0.03);
}

// What joins is paid for in full, even if all that waits then is small.
TEST(RequestLedgerTest, LargeRequestsThatJoinAreNotForgiven) {
  RequestLedger ledger(4);
  std::map<std::string, int64_t> work;
  std::map<int64_t, std::string> tenant_of;
  int64_t id = 0;
  const auto add = [&](const std::string& tenant, const std::string& key,
                       int steps) {
    tenant_of[++id] = tenant;
    ledger.Add(Request(id, key, steps, tenant));
  };
  for (int step = 0; step < 20000; ++step) {
    std::map<std::string, int> waiting;
    for (const RequestView& request : ledger.state().requests) {
      if (!request.started) ++waiting[request.tenant];
    }
    if (waiting["wide"] == 0) add("wide", "wide" + std::to_string(id), 15);
    if (waiting["flood"] == 0) {  // the small one comes first
      add("flood", "small" + std::to_string(id), 11);
      for (int i = 0; i < 8; ++i) add("flood", "flood", 40);
    }
    for (const int64_t member : MakeStep(ledger)) work[tenant_of[member]]++;
  }
  EXPECT_NEAR(
      static_cast<double>(work["flood"]) / static_cast<double>(work["wide"]), 1,
      0.03);
}

// Tenants that always have work, each request with an adapter set of its own,
// so that only turns and urgency decide.
class BackloggedLedgerTest : public testing::Test {
 protected:
  // From now on `tenant` has `count` unfinished requests at any time.
  void Keep(const std::string& tenant, int steps, Priority priority,
            int count = 2) {
    kept_[tenant] = {steps, priority, count};
  }
  // ... and no longer.
  void Stop(const std::string& tenant) { kept_.erase(tenant); }

  int64_t Add(const std::string& tenant, int steps, Priority priority,
              const std::string& key = "") {
    const int64_t id = ++last_id_;
    RequestView request =
        Request(id, key.empty() ? std::to_string(id) : key, steps, tenant);
    request.priority = priority;
    ledger_.Add(request);
    return id;
  }

  int Unfinished(const std::string& tenant) const {
    const auto& requests = ledger_.state().requests;
    return static_cast<int>(std::count_if(
        requests.begin(), requests.end(),
        [&](const RequestView& request) { return request.tenant == tenant; }));
  }

  void Step() {
    for (const auto& [tenant, job] : kept_) {
      while (Unfinished(tenant) < job.count) {
        Add(tenant, job.steps, job.priority);
      }
    }
    for (const RequestView& request : ledger_.state().requests) {
      tenant_of_[request.id] = request.tenant;
    }
    for (const int64_t id : MakeStep(ledger_))
      begun_[tenant_of_[id]].insert(id);
  }
  void Steps(int steps) {
    for (int i = 0; i < steps; ++i) Step();
  }

  size_t Begun(const std::string& tenant) { return begun_[tenant].size(); }

  // How many requests of `other` begin before `id`, which is one of `tenant`.
  int BegunBefore(const std::string& tenant, int64_t id,
                  const std::string& other) {
    const size_t before = Begun(other);
    for (int step = 0; begun_[tenant].count(id) == 0; ++step) {
      if (step == 50000) {
        ADD_FAILURE() << tenant << " is shut out";
        break;
      }
      Step();
    }
    return static_cast<int>(Begun(other) - before);
  }

  // Removes all that `tenant` has but one request.
  void CancelAll(const std::string& tenant, int64_t but) {
    const std::vector<RequestView> requests = ledger_.state().requests;
    for (const RequestView& request : requests) {
      if (request.tenant != tenant || request.id == but) continue;
      ledger_.Remove(request.id, request.WorkLeft());
    }
  }

  RequestLedger ledger_{4};

 private:
  struct Job {
    int steps = 0;
    Priority priority = Priority::kInteractive;
    int count = 0;
  };
  std::map<std::string, Job> kept_;
  std::map<int64_t, std::string> tenant_of_;
  std::map<std::string, std::set<int64_t>> begun_;
  int64_t last_id_ = 0;
};

// What the urgent ones of one tenant took from another is nobody else's debt.
TEST_F(BackloggedLedgerTest, WhoComesLaterDoesNotOweWhatUrgentOnesHad) {
  Keep("urgent", 20, Priority::kInteractive);
  Keep("large", 20, Priority::kBatch);
  Steps(20000);
  const int64_t id = Add("new", 20, Priority::kBatch);
  EXPECT_LE(BegunBefore("new", id, "large"), 2);
}

TEST_F(BackloggedLedgerTest, WhoComesLaterDoesNotOweWhatShortOnesHad) {
  Keep("short", 5, Priority::kInteractive);
  Keep("large", 30, Priority::kInteractive);
  Steps(20000);
  const int64_t id = Add("new", 30, Priority::kInteractive);
  EXPECT_LE(BegunBefore("new", id, "large"), 2);
}

// A debt has an end for who made it as well, but it is one.
TEST_F(BackloggedLedgerTest, WhoHadMoreThanItsShareWaitsForEightJobs) {
  Keep("urgent", 20, Priority::kInteractive);
  Keep("large", 20, Priority::kBatch);
  Steps(20000);
  Stop("urgent");
  const int64_t id = Add("urgent", 20, Priority::kBatch);
  const int waited = BegunBefore("urgent", id, "large");
  EXPECT_GE(waited, 8 - 1);
  EXPECT_LE(waited, 8 + 2);
}

// What is given back was not had: if it were forgiven as a debt, it would be
// paid back on top of that.
TEST_F(BackloggedLedgerTest, CancellingPaysOffNoDebt) {
  Keep("urgent", 20, Priority::kInteractive);
  Keep("large", 2000, Priority::kBatch);  // no turn comes meanwhile
  Steps(20000);
  Stop("urgent");
  const int64_t but = Add("urgent", 20, Priority::kBatch);
  for (int round = 0; round < 5; ++round) {
    int64_t last = 0;
    for (int i = 0; i < 4; ++i) {
      last = Add("urgent", 20, Priority::kInteractive, "same");
    }
    BegunBefore("urgent", last, "large");
    Step();
    CancelAll("urgent", but);
    EXPECT_LE(ledger_.state().shares.deficit("urgent"), -8 * 20 * kStep);
  }
}

// Both owe as much as is counted, and one has no request in between.
TEST_F(BackloggedLedgerTest, UrgentTenantsShareWhateverTheyOwe) {
  Keep("large", 20, Priority::kBatch);
  Keep("flood", 20, Priority::kInteractive, /*count=*/10);
  Steps(2000);
  Keep("single", 20, Priority::kInteractive, /*count=*/1);
  Steps(2000);
  const size_t flood = Begun("flood");
  const size_t single = Begun("single");
  Steps(4000);
  EXPECT_NEAR(static_cast<double>(Begun("flood") - flood),
              static_cast<double>(Begun("single") - single), 2);
}

// Nobody else was served while the large one had its turn.
TEST_F(BackloggedLedgerTest, CancellingWhileAloneGivesNoClaim) {
  Add("one", 4000, Priority::kBatch);
  Step();
  const int64_t but = Add("one", 20, Priority::kBatch);
  CancelAll("one", but);
  Keep("one", 20, Priority::kBatch);
  const int64_t id = Add("other", 20, Priority::kBatch);
  EXPECT_LE(BegunBefore("other", id, "one"), 2);
}

// Random requests that come and go, and what an onlooker counts beside the
// ledger.
class RandomLedgerTest : public testing::TestWithParam<int> {
 protected:
  RandomLedgerTest() : random_(static_cast<uint64_t>(GetParam())) {}

  int Random(int below) { return static_cast<int>(random_() % below); }

  void AddRandom(RequestLedger& ledger) {
    RequestView request =
        Request(++last_id_, std::to_string(Random(5)), 10 + Random(20),
                std::string(1, static_cast<char>('a' + Random(3))));
    for (int i = 1; Random(6) == 0; ++i) {
      request.images.push_back(request.images[0]);
      request.images.back().index = i;
    }
    if (Random(4) == 0) request.priority = Priority::kBatch;
    unfinished_[request.id] = request;
    ledger.Add(request);
  }

  // Checks the choice, and counts whom it passes over: those who came before
  // one that joins, of its class and not much longer.
  void Watch(const BatchChoice& choice) {
    const int64_t lead = choice.images.front().request_id;
    const std::string key = unfinished_.at(lead).images[0].batch_key;
    std::set<std::pair<int64_t, int>> members;
    for (const BatchImage& image : choice.images) {
      EXPECT_TRUE(members.insert({image.request_id, image.image_index}).second);
      EXPECT_EQ(unfinished_.at(image.request_id).images[0].batch_key, key);
    }
    for (const int64_t joined : choice.starting) {
      if (joined == lead) continue;
      const RequestView& by = unfinished_.at(joined);
      for (const auto& [id, request] : unfinished_) {
        if (id < joined && request.images[0].batch_key != key &&
            !MayOvertake(by, request)) {
          EXPECT_LE(++passed_over_[id], kMaxPassedOver) << id;
        }
      }
    }
  }

  // Makes the step.
  void Step(RequestLedger& ledger, const BatchChoice& choice) {
    std::set<int64_t> ids;
    for (const BatchImage& member : choice.images) {
      ids.insert(member.request_id);
      for (ImageView& image : unfinished_.at(member.request_id).images) {
        if (image.index != member.image_index) continue;
        image.begun = true;
        image.work_left -= kStep;
      }
    }
    for (const int64_t id : ids) {
      std::vector<ImageView>& images = unfinished_.at(id).images;
      images.erase(
          std::remove_if(images.begin(), images.end(),
                         [](const ImageView& i) { return i.work_left == 0; }),
          images.end());
      if (images.empty()) {
        End(ledger, id);
      } else {
        ledger.MadeStep(id, images);
      }
    }
  }

  void End(RequestLedger& ledger, int64_t id) {
    ledger.Remove(id);
    unfinished_.erase(id);
  }

  std::mt19937_64 random_;
  int64_t last_id_ = 0;
  std::map<int64_t, RequestView> unfinished_;
  std::map<int64_t, int> passed_over_;
};

TEST_P(RandomLedgerTest, NobodyIsLostAndNobodyIsPassedOverTooOften) {
  RequestLedger ledger(1 + GetParam() % 8);
  for (int step = 0; step < 20000; ++step) {
    if (ledger.waiting() < 40 && Random(12) == 0) AddRandom(ledger);
    if (ledger.empty()) continue;
    const BatchChoice choice = ledger.Next();
    ASSERT_FALSE(choice.images.empty());
    ASSERT_LE(static_cast<int>(choice.images.size()), ledger.max_batch_size());
    Watch(choice);
    Step(ledger, choice);
    if (Random(200) == 0 && !unfinished_.empty()) {  // a client goes away
      auto victim = unfinished_.begin();
      std::advance(victim, Random(static_cast<int>(unfinished_.size())));
      End(ledger, victim->first);
    }
    ASSERT_EQ(ledger.waiting() + ledger.started(),
              static_cast<int>(unfinished_.size()));
  }
  for (int step = 0; !ledger.empty(); ++step) {
    ASSERT_LT(step, 100000);
    Step(ledger, ledger.Next());
  }
  EXPECT_GT(last_id_, 500);
}

INSTANTIATE_TEST_SUITE_P(Seeds, RandomLedgerTest, testing::Range(0, 8));

}  // namespace
}  // namespace graft

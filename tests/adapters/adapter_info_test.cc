#include "server/adapters/adapter_info.h"

#include <map>
#include <utility>

#include "gtest/gtest.h"

namespace graft {
namespace {

using State = AdapterState;
using Event = AdapterEvent;

TEST(NextAdapterStateTest, TheseAreAllTransitions) {
  const std::map<std::pair<State, Event>, State> legal = {
      {{State::kLoading, Event::kLoaded}, State::kActive},
      {{State::kLoading, Event::kLoadFailed}, State::kGone},
      {{State::kActive, Event::kUnloadAsked}, State::kUnloading},
      {{State::kUnloading, Event::kLastUseOver}, State::kGone},
  };
  for (const State state :
       {State::kLoading, State::kActive, State::kUnloading, State::kGone}) {
    for (const Event event : {Event::kLoaded, Event::kLoadFailed,
                              Event::kUnloadAsked, Event::kLastUseOver}) {
      const auto expected = legal.find({state, event});
      const auto next = NextAdapterState(state, event);
      ASSERT_EQ(next.has_value(), expected != legal.end())
          << AdapterStateName(state) << " " << static_cast<int>(event);
      if (next.has_value()) {
        EXPECT_EQ(*next, expected->second);
      }
    }
  }
}

TEST(AdapterInfoTest, ResidenciesHaveNames) {
  EXPECT_EQ(AdapterResidencyName(AdapterResidency::kDisk), "disk");
  EXPECT_EQ(AdapterResidencyName(AdapterResidency::kHost), "host");
  EXPECT_EQ(AdapterResidencyName(AdapterResidency::kDevice), "device");
}

}  // namespace
}  // namespace graft

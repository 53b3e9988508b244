#include "server/engine/pipeline/sampler.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

// Whether all latents are finite of a run of all `sampler`'s steps.
bool StaysFinite(Sampler& sampler) {
  at::Generator generator =
      at::globalContext().defaultGenerator(at::kCPU).clone();
  at::Tensor latents = at::ones({1, 4, 2, 2}).mul(sampler.init_noise_sigma());
  for (int i = 0; i < sampler.num_steps(); ++i) {
    latents = sampler.Step(at::full_like(latents, 0.1), latents, generator);
    if (!latents.isfinite().all().item<bool>()) return false;
  }
  return true;
}

// Up to the number of steps that it refuses, every sampler makes a picture.
TEST(SamplerTest, WhatIsNotRefusedStaysFinite) {
  TempDir folder;
  for (const char* const spacing : {"linspace", "leading", "trailing"}) {
    const std::string name = absl::StrCat(spacing, ".json");
    folder.Write(name, absl::StrCat("{\"timestep_spacing\": \"", spacing,
                                    "\", \"steps_offset\": 0}"));
    const Samplers samplers = MakeSamplers(folder.path() + "/" + name);
    for (const auto& [sampler_name, factory] : samplers) {
      ASSERT_THAT(factory.status(), IsOk());
      int taken = 0;
      for (const int steps : {1, 2, 3, 20, 501, 998, 999, 1000}) {
        auto sampler = (*factory)->Create(steps);
        if (!sampler.ok()) continue;
        ++taken;
        EXPECT_TRUE(StaysFinite(**sampler))
            << sampler_name << " " << spacing << " " << steps;
      }
      EXPECT_GE(taken, 7) << sampler_name << " " << spacing;
      EXPECT_FALSE((*factory)->Create(1001).ok());
    }
  }
}

}  // namespace
}  // namespace graft

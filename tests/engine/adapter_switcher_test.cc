#include "server/engine/weights/adapter_switcher.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/engine/weights/prepared_lora.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

constexpr int kTargets = 5;

// A store of a few matrices and two adapters over all of them.
class AdapterSwitcherTest : public ::testing::Test {
 protected:
  AdapterSwitcherTest() : store_(at::kCPU, at::kBFloat16), switcher_(&store_) {
    at::manual_seed(1);
    for (int i = 0; i < kTargets; ++i) {
      store_.Add(Name(i), View(at::randn({6, 4})));
    }
  }

  static std::string Module(int i) { return absl::StrCat("unet.m", i); }
  static std::string Name(int i) { return Module(i) + ".weight"; }

  // A view of a float32 tensor that the fixture keeps alive.
  TensorView View(const at::Tensor& tensor) {
    tensors_.push_back(tensor.contiguous());
    const at::Tensor& kept = tensors_.back();
    return {TensorDtype::kF32,
            std::vector<int64_t>(kept.sizes().begin(), kept.sizes().end()),
            absl::MakeConstSpan(static_cast<const uint8_t*>(kept.data_ptr()),
                                kept.nbytes())};
  }

  PreparedAdapterPtr Adapter(const std::string& sha256) {
    AdapterWeights weights;
    weights.sha256 = sha256;
    for (int i = 0; i < kTargets; ++i) {
      AdapterTarget target;
      target.module = Module(i);
      target.rank = 2;
      target.scale = 0.5;
      target.factors = {{FactorRole::kDown, "down", View(at::randn({2, 4}))},
                        {FactorRole::kUp, "up", View(at::randn({6, 2}))}};
      weights.targets.push_back(std::move(target));
    }
    return *PreparedLora::Create(weights, store_, live_bytes_);
  }

  std::vector<at::Tensor> Weights() const {
    std::vector<at::Tensor> copies;
    for (const auto& [name, tensor] : store_.tensors()) {
      copies.push_back(tensor.clone());
    }
    return copies;
  }

  void ExpectWeights(const std::vector<at::Tensor>& expected,
                     const std::string& what) const {
    size_t i = 0;
    for (const auto& [name, tensor] : store_.tensors()) {
      // As bits: equal() takes -0 and 0 for the same.
      EXPECT_TRUE(tensor.view(at::kShort).equal(expected[i++].view(at::kShort)))
          << what << ": " << name;
    }
  }

  std::vector<at::Tensor> tensors_;
  std::shared_ptr<std::atomic<int64_t>> live_bytes_ =
      std::make_shared<std::atomic<int64_t>>(0);
  WeightStore store_;
  AdapterSwitcher switcher_;
};

TEST_F(AdapterSwitcherTest, MergesScaledProductRoundedOnce) {
  const PreparedAdapterPtr adapter = Adapter("a");
  const auto& target =
      static_cast<const PreparedLora&>(*adapter).targets().at(Name(0));
  const at::Tensor base = store_.at(Name(0)).clone();
  ASSERT_THAT(switcher_.SwitchTo({{adapter, 0.75, 1}}).status(), IsOk());
  const at::Tensor exact =
      base.to(at::kDouble) +
      0.75 * 0.5 *
          at::mm(target.up.to(at::kDouble), target.down.to(at::kDouble));
  // A double result that lies between two bfloat16 may round either way.
  const at::Tensor error =
      (store_.at(Name(0)).to(at::kDouble) - exact).abs() / exact.abs();
  EXPECT_LE(error.max().item<double>(), std::ldexp(1.0, -8));
}

// Promise 3: wherever a switch fails, the former set is resident, exactly.
TEST_F(AdapterSwitcherTest, FailureAtAnyTargetLeavesFormerSet) {
  const PreparedAdapterPtr a = Adapter("a");
  const PreparedAdapterPtr b = Adapter("b");
  const std::vector<at::Tensor> base = Weights();
  const AdapterSet sets[] = {{}, {{a, 1, 1}}, {{a, 0.5, 1}, {b, -1, 1}}};
  for (const AdapterSet& from : sets) {
    ASSERT_THAT(switcher_.SwitchTo({}).status(), IsOk());
    ASSERT_THAT(switcher_.SwitchTo(from).status(), IsOk());
    const std::vector<at::Tensor> before = Weights();
    for (int failing = 0; failing < kTargets; ++failing) {
      switcher_.SetFaultForTesting([&](const std::string& parameter) {
        if (parameter == Name(failing)) throw std::runtime_error("injected");
      });
      EXPECT_THAT(switcher_.SwitchTo({{b, 2, 1}}).status(),
                  HasReason(ErrorReason::kInternal));
      ExpectWeights(before, absl::StrCat("failing at ", failing));
      EXPECT_EQ(switcher_.current().size(), from.size());
    }
  }
  ASSERT_THAT(switcher_.SwitchTo({}).status(), IsOk());
  ExpectWeights(base, "back at the base");
}

TEST_F(AdapterSwitcherTest, WritesNothingWhenTheSetIsResident) {
  const PreparedAdapterPtr a = Adapter("a");
  ASSERT_THAT(switcher_.SwitchTo({{a, 1, 1}}).status(), IsOk());
  switcher_.SetFaultForTesting(
      [](const std::string&) { throw std::runtime_error("written"); });
  const auto report = switcher_.SwitchTo({{a, 1, 1}});
  ASSERT_THAT(report.status(), IsOk());
  EXPECT_FALSE(report->changed);
  EXPECT_EQ(report->duration, absl::ZeroDuration());
}

TEST_F(AdapterSwitcherTest, BacksUpEachAdaptedWeightOnce) {
  const PreparedAdapterPtr a = Adapter("a");
  EXPECT_EQ(switcher_.restore_bytes(), 0);
  ASSERT_THAT(switcher_.SwitchTo({{a, 1, 1}}).status(), IsOk());
  EXPECT_EQ(switcher_.restore_bytes(), kTargets * 6 * 4 * 2);
  ASSERT_THAT(switcher_.SwitchTo({{Adapter("b"), 1, 1}}).status(), IsOk());
  EXPECT_EQ(switcher_.restore_bytes(), kTargets * 6 * 4 * 2);
}

}  // namespace
}  // namespace graft

// How long a switch between two adapters takes on a CUDA device, beside a copy
// of the same bytes within its memory. Prints a table, and no time at all
// unless the bits are right: every switch to an adapter leaves the bits of the
// first one, and the base comes back whole.
//
//   switch_bench DEVICE MODEL [RANK...]     cuda:0, and sd15, sdxl or tiny

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/device.h"
#include "server/engine/weights/adapter_switcher.h"
#include "server/engine/weights/prepared_weights.h"
#include "server/engine/weights/switch_pass.h"
#include "server/engine/weights/weight_store.h"
#include "tests/gpu/unet_shapes.h"

namespace graft {
namespace {

constexpr int kSwitches = 20;  // timed, of each way; and some before
constexpr int kWarmUps = 4;
constexpr std::pair<TargetSet, const char*> kTargetSets[] = {
    {TargetSet::kAttention, "attention"},
    {TargetSet::kTransformers, "transformers"},
    {TargetSet::kLocon, "locon"}};
// Base and factors.
constexpr std::pair<at::ScalarType, at::ScalarType> kDtypes[] = {
    {at::kHalf, at::kHalf},
    {at::kBFloat16, at::kBFloat16},
    {at::kHalf, at::kFloat}};
// D is a tenth of the weights' size.
constexpr double kNorm = 0.1;

using Seconds = std::chrono::duration<double>;

[[noreturn]] void Fail(const std::string& why) {
  std::fprintf(stderr, "switch_bench: %s\n", why.c_str());
  std::exit(1);
}

void CheckOk(const absl::Status& status) {
  if (!status.ok()) Fail(status.ToString());
}

TensorView ViewOf(const at::Tensor& tensor) {
  const TensorDtype dtype =
      tensor.scalar_type() == at::kHalf       ? TensorDtype::kF16
      : tensor.scalar_type() == at::kBFloat16 ? TensorDtype::kBF16
                                              : TensorDtype::kF32;
  return {
      dtype,
      tensor.sizes().vec(),
      {static_cast<const uint8_t*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2,
                   values.end());
  return values[values.size() / 2];
}

// A random LoRA or LoCon for `shapes`, with `store`'s weights 1 / sqrt(in).
PreparedAdapterPtr MakeAdapter(const std::vector<WeightShape>& shapes,
                               const WeightStore& store, int rank,
                               at::ScalarType dtype, char name) {
  AdapterWeights weights;
  weights.sha256 = std::string(64, name);
  auto tensors = std::make_shared<std::vector<at::Tensor>>();
  const auto factor = [&](FactorRole role, std::vector<int64_t> shape,
                          double size) {
    // Drawn where that is fast.
    tensors->push_back(
        (at::randn(shape, store.device()) * size).to(dtype).to(at::kCPU));
    return AdapterFactor{role, "", ViewOf(tensors->back())};
  };
  tensors->reserve(2 * shapes.size());
  for (const WeightShape& weight : shapes) {
    AdapterTarget target;
    target.module = weight.name;
    target.rank = rank;
    std::vector<int64_t> down = weight.shape, up = weight.shape;
    down[0] = up[1] = rank;
    for (size_t i = 2; i < up.size(); ++i) up[i] = 1;
    double inputs = 1;
    for (size_t i = 1; i < down.size(); ++i) {
      inputs *= static_cast<double>(down[i]);
    }
    target.factors.push_back(
        factor(FactorRole::kDown, down, kNorm / std::sqrt(inputs)));
    target.factors.push_back(
        factor(FactorRole::kUp, up, 1 / std::sqrt(double{1} * rank)));
    weights.targets.push_back(std::move(target));
  }
  weights.storage = tensors;
  auto prepared = PreparedWeights::Create(
      weights, store, std::make_shared<std::atomic<int64_t>>(0));
  CheckOk(prepared.status());
  return *std::move(prepared);
}

// One base on the device and its switcher.
class Bench {
 public:
  Bench(at::Device device, at::ScalarType dtype,
        const std::vector<WeightShape>& shapes)
      : guard_(device.type()), store_(device, dtype) {
    for (const WeightShape& weight : shapes) {
      const int64_t out = weight.shape[0];
      at::Tensor values = at::randn(weight.shape, device);
      const auto inputs = static_cast<double>(values.numel() / out);
      values = (values / std::sqrt(inputs)).to(dtype).to(at::kCPU);
      store_.Add(weight.name + ".weight", ViewOf(values));
    }
    switcher_ = std::make_unique<AdapterSwitcher>(
        &store_, RestoreMode::kUndoLog, MakeSwitchPass(device));
  }

  void Row(const char* set, const std::vector<WeightShape>& shapes, int rank,
           at::ScalarType factors) {
    const PreparedAdapterPtr adapters[] = {
        MakeAdapter(shapes, store_, rank, factors, 'a'),
        MakeAdapter(shapes, store_, rank, factors, 'b')};
    const std::vector<at::Tensor> base = Snapshot(shapes);
    // As many bytes, in one piece: each read once and written once, as by the
    // switch.
    const at::Tensor from = at::zeros(
        {BytesOf(base)}, at::TensorOptions(at::kByte).device(store_.device()));
    const at::Tensor to = at::empty_like(from);
    std::vector<at::Tensor> merged[2];
    std::vector<double> switches, copies;
    int64_t log_bytes = 0;
    for (int i = 0; i < kWarmUps + kSwitches; ++i) {
      const double seconds = Time([&] {
        CheckOk(switcher_->SwitchTo({{adapters[i % 2], 1, 1}}).status());
      });
      const double copy = Time([&] { to.copy_(from); });
      if (i >= kWarmUps) {
        switches.push_back(seconds);
        copies.push_back(copy);
      }
      log_bytes = std::max(log_bytes, switcher_->restore_bytes());
      Compare(shapes, merged[i % 2], "an adapter's weights changed");
    }
    CheckOk(switcher_->SwitchTo({}).status());
    std::vector<at::Tensor> expected = base;
    Compare(shapes, expected, "the base did not come back");
    Print(set, rank, factors, BytesOf(base), Median(switches), Median(copies),
          log_bytes);
  }

 private:
  double Time(const std::function<void()>& f) const {
    Wait();
    const auto start = std::chrono::steady_clock::now();
    f();
    Wait();
    return Seconds(std::chrono::steady_clock::now() - start).count();
  }

  void Wait() const {
    if (store_.device().is_cpu()) return;  // to try the program
    guard_.synchronizeDevice(store_.device().index());
  }

  at::Tensor Weight(const WeightShape& shape) const {
    return store_.at(shape.name + ".weight");
  }

  std::vector<at::Tensor> Snapshot(
      const std::vector<WeightShape>& shapes) const {
    std::vector<at::Tensor> snapshot;
    for (const WeightShape& shape : shapes) {
      snapshot.push_back(Weight(shape).clone());
    }
    return snapshot;
  }

  // With what was seen the first time.
  void Compare(const std::vector<WeightShape>& shapes,
               std::vector<at::Tensor>& expected, const char* what) const {
    if (expected.empty()) {
      expected = Snapshot(shapes);
      return;
    }
    for (size_t i = 0; i < shapes.size(); ++i) {
      const at::ScalarType bits =
          expected[i].element_size() == 2 ? at::kShort : at::kInt;
      if (!at::equal(Weight(shapes[i]).view(bits), expected[i].view(bits))) {
        Fail(absl::StrCat(what, ": ", shapes[i].name));
      }
    }
  }

  static int64_t BytesOf(const std::vector<at::Tensor>& tensors) {
    int64_t bytes = 0;
    for (const at::Tensor& tensor : tensors) {
      bytes += static_cast<int64_t>(tensor.nbytes());
    }
    return bytes;
  }

  void Print(const char* set, int rank, at::ScalarType factors, int64_t bytes,
             double seconds, double copy, int64_t log_bytes) const {
    std::printf(
        "%-13s %4d  %-9s %-9s %8.1f %9.3f %9.3f %6.0f %6.0f%% %6.1f%%\n", set,
        rank, c10::toString(store_.dtype()), c10::toString(factors),
        static_cast<double>(bytes) / 1e6, seconds * 1e3, copy * 1e3,
        2 * static_cast<double>(bytes) / copy / 1e9, 100 * copy / seconds,
        100 * static_cast<double>(log_bytes) / static_cast<double>(bytes));
    std::fflush(stdout);
  }

  const c10::impl::VirtualGuardImpl guard_;
  WeightStore store_;
  std::unique_ptr<AdapterSwitcher> switcher_;
};

void Run(const std::string& device_name, const std::string& model,
         const std::vector<int>& ranks) {
  const c10::InferenceMode inference;
  EngineOptions options;
  options.device = device_name;
  const absl::StatusOr<DeviceChoice> device = ChooseDevice(options);
  CheckOk(device.status());
  // Only now: LibTorch's first look for CUDA is its last.
  at::manual_seed(1);
  const std::vector<WeightShape> shapes = UnetShapes(model);
  std::printf(
      "%s on %s: medians of %d switches, in ms; GB/s of the copy; the "
      "copy's part of the switch; the log's size\n",
      model.c_str(), device->name.c_str(), kSwitches);
  std::printf(
      "%-13s rank  base      factors         MB    switch      copy   "
      "GB/s   share     log\n",
      "targets");
  for (const auto& [base, factors] : kDtypes) {
    Bench bench(device->device, base, shapes);
    for (const auto& [set, name] : kTargetSets) {
      std::vector<WeightShape> targets;
      std::copy_if(shapes.begin(), shapes.end(), std::back_inserter(targets),
                   [set = set](const WeightShape& s) { return s.in <= set; });
      for (const int rank : ranks) bench.Row(name, targets, rank, factors);
    }
  }
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "switch_bench DEVICE sd15|sdxl|tiny [RANK...]\n");
    return 2;
  }
  std::vector<int> ranks;
  for (int i = 3; i < argc; ++i) {
    ranks.push_back(0);
    if (!absl::SimpleAtoi(argv[i], &ranks.back()) || ranks.back() <= 0) {
      graft::Fail(absl::StrCat(argv[i], " is no rank"));
    }
  }
  if (ranks.empty()) ranks.assign({4, 8, 16, 32, 64, 128});
  try {
    graft::Run(argv[1], argv[2], ranks);
  } catch (const std::exception& e) {
    graft::Fail(e.what());
  }
}

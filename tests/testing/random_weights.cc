#include "tests/testing/random_weights.h"

#include <cstring>
#include <iterator>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <utility>

#include "server/common/sha256.h"
#include "server/engine/weights/kernels/weight_bits.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// The largest number up to `limit` that divides `n`.
int64_t Divisor(int64_t n, int64_t limit) {
  int64_t divisor = 1;
  for (int64_t i = 2; i <= limit && i <= n; ++i) {
    if (n % i == 0) divisor = i;
  }
  return divisor;
}

class Builder {
 public:
  explicit Builder(const RandomWeightsOptions& options)
      : options_(options), random_(options.seed), normal_(0, options.size) {}

  AdapterWeights Build(const ModuleTable& modules) {
    weights_.sha256 = Sha256Hex(&options_.seed, sizeof(options_.seed));
    rank_ = 1 + static_cast<int64_t>(random_() % 5);
    for (const ModuleInfo& module : modules.modules) {
      if (random_() % static_cast<uint64_t>(options_.one_module_of) == 0) {
        AddModule(module);
      }
    }
    weights_.storage = storage_;
    return std::move(weights_);
  }

 private:
  static bool IsMatrix(const ModuleInfo& module) {
    return module.kind == ModuleKind::kLinear ||
           module.kind == ModuleKind::kConv2d;
  }
  static bool IsKernel(const ModuleInfo& module) {
    return module.weight_shape.size() == 4 && module.weight_shape[2] > 1;
  }

  void AddModule(const ModuleInfo& module) {
    RandomWeightsKind kind = options_.kind;
    if (kind == RandomWeightsKind::kMixed) {
      kind = kAllRandomWeightsKinds[random_() %
                                    (std::size(kAllRandomWeightsKinds) - 1)];
    }
    if (!IsMatrix(module)) {
      if (kind == RandomWeightsKind::kDiff) AddDiff(module);
      return;
    }
    switch (kind) {
      case RandomWeightsKind::kLora:
      case RandomWeightsKind::kLocon:
      case RandomWeightsKind::kDora:
      case RandomWeightsKind::kDoraOnInput:
        return AddLora(module, kind);
      case RandomWeightsKind::kLoha:
      case RandomWeightsKind::kLohaTucker:
        return AddLoha(module, kind == RandomWeightsKind::kLohaTucker);
      case RandomWeightsKind::kLokr:
      case RandomWeightsKind::kLokrTucker:
        return AddLokr(module, kind == RandomWeightsKind::kLokrTucker);
      case RandomWeightsKind::kDiff:
        return AddDiff(module);
      case RandomWeightsKind::kIa3:
        return AddIa3(module);
      case RandomWeightsKind::kGlora:
        return AddGlora(module);
      case RandomWeightsKind::kOft:
      case RandomWeightsKind::kBoft:
        return AddOft(module, kind == RandomWeightsKind::kBoft);
      case RandomWeightsKind::kMixed:
        return;
    }
  }

  // Sizes of a module's weight.
  static int64_t Out(const ModuleInfo& module) {
    return module.weight_shape[0];
  }
  static int64_t In(const ModuleInfo& module) { return module.weight_shape[1]; }
  static int64_t Kernel(const ModuleInfo& module) {
    return module.weight_shape.size() == 4
               ? module.weight_shape[2] * module.weight_shape[3]
               : 1;
  }

  AdapterTarget& NewTarget(const ModuleInfo& module,
                           AdapterAlgorithm algorithm) {
    AdapterTarget& target = weights_.targets.emplace_back();
    target.module = module.name;
    target.algorithm = algorithm;
    target.rank = static_cast<int>(rank_);
    target.scale = 0.5 + static_cast<double>(random_() % 4) / 4;
    return target;
  }

  void AddLora(const ModuleInfo& module, RandomWeightsKind kind) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kLora);
    const bool mid = kind == RandomWeightsKind::kLocon && IsKernel(module);
    Shape down = module.weight_shape;
    down[0] = rank_;
    if (mid) {
      down.resize(2);
      Add(target, FactorRole::kMid,
          {rank_, rank_, module.weight_shape[2], module.weight_shape[3]});
    }
    Add(target, FactorRole::kDown, down);
    Add(target, FactorRole::kUp, {Out(module), rank_});
    if (kind == RandomWeightsKind::kDora) {
      Add(target, FactorRole::kMagnitude, {Out(module)}, 1);
    } else if (kind == RandomWeightsKind::kDoraOnInput) {
      target.magnitude_axis = WeightAxis::kInput;
      Add(target, FactorRole::kMagnitude, {In(module)}, 1);
    }
    if (module.has_bias && random_() % 2 == 0) AddBias(module);
  }

  void AddLoha(const ModuleInfo& module, bool tucker) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kLoha);
    const bool core = tucker && IsKernel(module);
    for (const auto& [a, b, t] :
         {std::tuple(FactorRole::kHadaW1A, FactorRole::kHadaW1B,
                     FactorRole::kHadaT1),
          std::tuple(FactorRole::kHadaW2A, FactorRole::kHadaW2B,
                     FactorRole::kHadaT2)}) {
      Add(target, a,
          core ? Shape{rank_, Out(module)} : Shape{Out(module), rank_});
      Add(target, b, {rank_, core ? In(module) : In(module) * Kernel(module)});
      if (core) {
        Add(target, t,
            {rank_, rank_, module.weight_shape[2], module.weight_shape[3]});
      }
    }
  }

  void AddLokr(const ModuleInfo& module, bool tucker) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kLokr);
    const int64_t a = Divisor(Out(module), 4), b = Divisor(In(module), 4);
    const int64_t c = Out(module) / a, d = In(module) / b;
    if (random_() % 2 == 0) {
      Add(target, FactorRole::kLokrW1, {a, b});
    } else {
      Add(target, FactorRole::kLokrW1A, {a, rank_});
      Add(target, FactorRole::kLokrW1B, {rank_, b});
    }
    if (tucker && IsKernel(module)) {
      Add(target, FactorRole::kLokrT2,
          {rank_, rank_, module.weight_shape[2], module.weight_shape[3]});
      Add(target, FactorRole::kLokrW2A, {rank_, c});
      Add(target, FactorRole::kLokrW2B, {rank_, d});
    } else if (random_() % 2 == 0) {
      Shape whole = module.weight_shape;
      whole[0] = c;
      whole[1] = d;
      Add(target, FactorRole::kLokrW2, whole);
    } else {
      Add(target, FactorRole::kLokrW2A, {c, rank_});
      Add(target, FactorRole::kLokrW2B, {rank_, d * Kernel(module)});
    }
  }

  void AddDiff(const ModuleInfo& module) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kDiff);
    Add(target, FactorRole::kDiff, module.weight_shape);
    if (module.has_bias) AddBias(module);
  }

  void AddBias(const ModuleInfo& module) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kDiff);
    target.parameter = ParameterKind::kBias;
    Add(target, FactorRole::kDiff, {Out(module)});
  }

  void AddIa3(const ModuleInfo& module) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kIa3);
    target.on_input = random_() % 2 == 0;
    Add(target, FactorRole::kIa3, {target.on_input ? In(module) : Out(module)});
  }

  void AddGlora(const ModuleInfo& module) {
    AdapterTarget& target = NewTarget(module, AdapterAlgorithm::kGlora);
    Add(target, FactorRole::kGloraA1, {In(module), rank_});
    Add(target, FactorRole::kGloraA2, {rank_, In(module)});
    Add(target, FactorRole::kGloraB1, {Out(module), rank_});
    Shape b2 = module.weight_shape;
    b2[0] = rank_;
    Add(target, FactorRole::kGloraB2, b2);
  }

  void AddOft(const ModuleInfo& module, bool butterfly) {
    if (Out(module) % 4 != 0) return;
    AdapterTarget& target = NewTarget(
        module, butterfly ? AdapterAlgorithm::kBoft : AdapterAlgorithm::kOft);
    target.constraint = random_() % 2 == 0 ? 0.05 : 0;
    const int64_t blocks = Out(module) / 4;
    // Two stages mix rows up to 8 apart.
    const int64_t stages = Out(module) % 8 == 0 ? 2 : 1;
    Add(target, FactorRole::kOftBlocks,
        butterfly ? Shape{stages, blocks, 4, 4} : Shape{blocks, 4, 4});
    if (random_() % 2 == 0) {
      Add(target, FactorRole::kRescale, {Out(module), 1}, 1);
    }
  }

  // A factor of normal values around `mean`.
  void Add(AdapterTarget& target, FactorRole role, Shape shape,
           float mean = 0) {
    TensorView view{options_.dtype, std::move(shape), {}};
    const size_t size = TensorDtypeSize(options_.dtype);
    std::string& bytes = storage_->emplace_back(
        static_cast<size_t>(view.num_elements()) * size, '\0');
    for (size_t at = 0; at < bytes.size(); at += size) {
      const float value = mean + normal_(random_);
      const uint32_t bits =
          options_.dtype == TensorDtype::kF16    ? Float16Weight::Round(value)
          : options_.dtype == TensorDtype::kBF16 ? BFloat16Weight::Round(value)
                                                 : FloatBits(value);
      std::memcpy(bytes.data() + at, &bits, size);
    }
    view.bytes = absl::MakeConstSpan(
        reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    target.factors.push_back({role, "some.key", std::move(view)});
  }

  const RandomWeightsOptions options_;
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
  int64_t rank_ = 1;
  AdapterWeights weights_;
  std::shared_ptr<std::list<std::string>> storage_ =
      std::make_shared<std::list<std::string>>();
};

}  // namespace

AdapterWeights RandomWeights(const ModuleTable& modules,
                             const RandomWeightsOptions& options) {
  return Builder(options).Build(modules);
}

}  // namespace graft

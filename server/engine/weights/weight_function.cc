#include "server/engine/weights/weight_function.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/common/status_macros.h"
#include "server/engine/compute_pool.h"
#include "server/engine/weights/delta_factors.h"

namespace graft {
namespace {

// Division by a norm is guarded as LyCORIS does: float32's epsilon.
constexpr double kEpsilon = 1.1920928955078125e-07;

// Whether the parameter's columns are kernel positions of input channels.
int64_t KernelSize(const at::Tensor& weight) {
  return weight.dim() == 4 ? weight.size(2) * weight.size(3) : 1;
}

at::Tensor Norm(const at::Tensor& tensor, at::IntArrayRef dims) {
  return at::linalg_vector_norm(tensor, 2, dims, /*keepdim=*/true);
}

// D' = V * (m / norm of V) - W with V = W + D, arXiv:2402.09353.
class Dora : public WeightFunction {
 public:
  Dora(DeltaFactors factors, at::Tensor magnitude, WeightAxis axis,
       int64_t kernel_size)
      : factors_(std::move(factors)),
        magnitude_(std::move(magnitude)),
        axis_(axis),
        kernel_size_(kernel_size) {}

  at::Tensor Change(const at::Tensor& w0) const override {
    const int64_t rows = w0.size(0);
    const at::Tensor adapted = w0 + factors_.Evaluate(rows, w0.size(1));  // V
    const at::Tensor blocks = adapted.view({rows, -1, kernel_size_});
    const bool by_output = axis_ == WeightAxis::kOutput;
    const at::Tensor norm =
        by_output ? Norm(blocks, {1, 2}) : Norm(blocks, {0, 2});
    const at::Tensor magnitude =
        by_output ? magnitude_.view({-1, 1, 1}) : magnitude_.view({1, -1, 1});
    return (blocks * (magnitude / (norm + kEpsilon))).view_as(w0) - w0;
  }

  int64_t bytes() const override {
    return factors_.bytes() + static_cast<int64_t>(magnitude_.nbytes());
  }

 private:
  const DeltaFactors factors_;
  const at::Tensor magnitude_;
  const WeightAxis axis_;
  const int64_t kernel_size_;
};

// D = w o W, arXiv:2205.05638.
class Ia3 : public WeightFunction {
 public:
  // `factor`: a row or a column that multiplies element by element.
  explicit Ia3(at::Tensor factor) : factor_(std::move(factor)) {}

  at::Tensor Change(const at::Tensor& w0) const override {
    return w0 * factor_;
  }
  int64_t bytes() const override {
    return static_cast<int64_t>(factor_.nbytes());
  }

 private:
  const at::Tensor factor_;
};

// D = s * (W * (a1 * a2) + b1 * b2), arXiv:2306.07967.
class Glora : public WeightFunction {
 public:
  Glora(at::Tensor a1, at::Tensor a2, at::Tensor b1, at::Tensor b2,
        double scale, int64_t kernel_size)
      : a1_(std::move(a1)),
        a2_(std::move(a2)),
        b1_(std::move(b1)),
        b2_(std::move(b2)),
        scale_(scale),
        kernel_size_(kernel_size) {}

  at::Tensor Change(const at::Tensor& w0) const override {
    // The product runs over input channels, for each position of the kernel.
    const at::Tensor w = w0.view({w0.size(0), -1, kernel_size_});
    const at::Tensor rotated =
        at::einsum("oik,ir,rj->ojk", {w, a1_, a2_}).reshape_as(w0);
    return (rotated + at::mm(b1_, b2_)) * scale_;
  }
  int64_t bytes() const override {
    return static_cast<int64_t>(a1_.nbytes() + a2_.nbytes() + b1_.nbytes() +
                                b2_.nbytes());
  }

 private:
  const at::Tensor a1_, a2_, b1_, b2_;
  const double scale_;
  const int64_t kernel_size_;
};

// The rotations (I + Q)(I - Q)^-1 of blocks [..., n, n], in float64.
at::Tensor CayleyRotations(const at::Tensor& blocks, double constraint) {
  at::Tensor rotations;
  ComputeAlone([&] {
    at::Tensor q = blocks.to(at::kDouble);
    q = q - q.transpose(-1, -2);
    if (constraint > 0) {
      const double norm = q.norm().item<double>();
      if (norm > constraint) q = q * (constraint / norm);
    }
    const at::Tensor identity =
        at::eye(q.size(-1), at::TensorOptions().dtype(at::kDouble));
    rotations =
        at::matmul(identity + q, at::inverse(identity - q)).to(at::kFloat);
  });
  return rotations;
}

// W' = rows in order, in K blocks, each times R_k^T; arXiv:2306.07280.
class Oft : public WeightFunction {
 public:
  Oft(at::Tensor rotations, at::Tensor rescale)
      : rotations_(std::move(rotations)), rescale_(std::move(rescale)) {}

  at::Tensor Change(const at::Tensor& w0) const override {
    const at::Tensor blocks =
        w0.view({rotations_.size(0), rotations_.size(1), -1});
    at::Tensor rotated =
        at::matmul(rotations_.transpose(1, 2), blocks).reshape_as(w0);
    if (rescale_.defined()) rotated = rotated * rescale_;
    return rotated - w0;
  }
  int64_t bytes() const override {
    return static_cast<int64_t>(rotations_.nbytes());
  }

 private:
  const at::Tensor rotations_;  // [K, n, n]
  const at::Tensor rescale_;    // [rows, 1], or undefined
};

// Rotations in butterfly stages; arXiv:2311.06243.
class Boft : public WeightFunction {
 public:
  Boft(at::Tensor rotations, at::Tensor rescale)
      : rotations_(std::move(rotations)), rescale_(std::move(rescale)) {}

  at::Tensor Change(const at::Tensor& w0) const override {
    const int64_t stages = rotations_.size(0);
    const int64_t block = rotations_.size(2);
    const int64_t cols = w0.size(1);
    at::Tensor x = w0;
    for (int64_t stage = 0; stage < stages; ++stage) {
      const int64_t half = (int64_t{1} << stage) * block / 2;
      // Rows as (u, 2, half) become (u, half, 2), so that blocks of `block`
      // rows hold what this stage mixes.
      const at::Tensor shuffled = x.view({-1, 2, half, cols})
                                      .transpose(1, 2)
                                      .reshape({-1, block, cols});
      const at::Tensor rotated = at::matmul(rotations_[stage], shuffled);
      x = rotated.reshape({-1, half, 2, cols}).transpose(1, 2).reshape_as(w0);
    }
    if (rescale_.defined()) x = x * rescale_;
    return x - w0;
  }
  int64_t bytes() const override {
    return static_cast<int64_t>(rotations_.nbytes());
  }

 private:
  const at::Tensor rotations_;  // [stages, blocks, b, b]
  const at::Tensor rescale_;    // [rows, 1], or undefined
};

// The factor in float32, where the parameter lives.
at::Tensor FactorBeside(const AdapterFactor& factor, const at::Tensor& weight) {
  return FactorTensor(factor, at::kFloat).to(weight.device());
}

using FunctionOr = absl::StatusOr<std::unique_ptr<const WeightFunction>>;

FunctionOr MakeDora(const AdapterTarget& target, const at::Tensor& weight) {
  double bound = 0;
  GRAFT_ASSIGN_OR_RETURN(DeltaFactors factors,
                         DeltaFactors::Create(target, weight, bound));
  const at::Tensor magnitude =
      FactorBeside(*target.Find(FactorRole::kMagnitude), weight).flatten();
  const int64_t expected = target.magnitude_axis == WeightAxis::kOutput
                               ? weight.size(0)
                               : weight.size(1);
  if (magnitude.numel() != expected) return FactorsDoNotFit(target);
  return std::make_unique<Dora>(std::move(factors), magnitude,
                                target.magnitude_axis, KernelSize(weight));
}

FunctionOr MakeIa3(const AdapterTarget& target, const at::Tensor& weight) {
  const AdapterFactor* const factor = target.Find(FactorRole::kIa3);
  const int64_t expected = target.on_input ? weight.size(1) : weight.size(0);
  if (factor == nullptr || factor->tensor.num_elements() != expected) {
    return FactorsDoNotFit(target);
  }
  const at::Tensor values = FactorBeside(*factor, weight).flatten();
  return std::make_unique<Ia3>(
      target.on_input
          ? values.repeat_interleave(KernelSize(weight)).unsqueeze(0)
          : values.unsqueeze(1));
}

FunctionOr MakeGlora(const AdapterTarget& target, const at::Tensor& weight) {
  std::vector<at::Tensor> factors;
  for (const FactorRole role : {FactorRole::kGloraA1, FactorRole::kGloraA2,
                                FactorRole::kGloraB1, FactorRole::kGloraB2}) {
    const AdapterFactor* const factor = target.Find(role);
    if (factor == nullptr) return FactorsDoNotFit(target);
    const at::Tensor tensor = FactorBeside(*factor, weight);
    factors.push_back(tensor.reshape({tensor.size(0), -1}));
  }
  const int64_t in = weight.size(1);
  const int64_t cols = weight.numel() / weight.size(0);
  if (factors[0].size(0) != in || factors[1].size(1) != in ||
      factors[0].size(1) != factors[1].size(0) ||
      factors[2].size(0) != weight.size(0) ||
      factors[2].size(1) != factors[3].size(0) || factors[3].size(1) != cols) {
    return FactorsDoNotFit(target);
  }
  return std::make_unique<Glora>(factors[0], factors[1], factors[2], factors[3],
                                 target.scale, KernelSize(weight));
}

FunctionOr MakeOrthogonal(const AdapterTarget& target,
                          const at::Tensor& weight) {
  const AdapterFactor* const blocks = target.Find(FactorRole::kOftBlocks);
  if (blocks == nullptr) return FactorsDoNotFit(target);
  const at::Tensor tensor = FactorTensor(*blocks, at::kFloat);
  const bool butterfly = target.algorithm == AdapterAlgorithm::kBoft;
  const int64_t dims = butterfly ? 4 : 3;
  if (tensor.dim() != dims || tensor.size(-1) != tensor.size(-2) ||
      tensor.size(-3) * tensor.size(-1) != weight.size(0)) {
    return FactorsDoNotFit(target);
  }
  at::Tensor rescale;
  if (const AdapterFactor* const factor = target.Find(FactorRole::kRescale)) {
    if (factor->tensor.num_elements() != weight.size(0)) {
      return FactorsDoNotFit(target);
    }
    rescale = FactorBeside(*factor, weight).reshape({-1, 1});
  }
  const at::Tensor rotations =
      CayleyRotations(tensor, target.constraint).to(weight.device());
  if (!butterfly) return std::make_unique<Oft>(rotations, rescale);
  // The last stage mixes rows this far apart.
  const int64_t span = (int64_t{1} << (tensor.size(0) - 1)) * tensor.size(-1);
  if (tensor.size(-1) % 2 != 0 || weight.size(0) % span != 0) {
    return FactorsDoNotFit(target);
  }
  return std::make_unique<Boft>(rotations, rescale);
}

}  // namespace

FunctionOr MakeWeightFunction(const AdapterTarget& target,
                              const at::Tensor& weight) {
  switch (target.algorithm) {
    case AdapterAlgorithm::kIa3:
      return MakeIa3(target, weight);
    case AdapterAlgorithm::kGlora:
      return MakeGlora(target, weight);
    case AdapterAlgorithm::kOft:
    case AdapterAlgorithm::kBoft:
      return MakeOrthogonal(target, weight);
    default:
      break;
  }
  if (target.Find(FactorRole::kMagnitude) != nullptr) {
    return MakeDora(target, weight);
  }
  return nullptr;
}

}  // namespace graft

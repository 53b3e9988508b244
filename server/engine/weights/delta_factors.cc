#include "server/engine/weights/delta_factors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/engine/compute_pool.h"
#include "server/engine/cuda/cuda_kernels.h"
#include "server/engine/cuda/warp_factors.h"
#include "server/engine/weights/switch_pass.h"
#include "server/engine/weights/weight_store.h"

namespace graft {
namespace {

// A factor as a matrix [shape[0], rest], in its own dtype where the kernels
// read it, else in float32.
at::Tensor AsMatrix(const at::Tensor& tensor) {
  return tensor.reshape({tensor.size(0), -1}).contiguous();
}

at::Tensor NativeTensor(const AdapterFactor& factor) {
  const at::Tensor tensor = CopyToTensor(factor.tensor);
  return tensor.scalar_type() == at::kDouble ? tensor.to(at::kFloat) : tensor;
}

MatrixView View(const at::Tensor& matrix) {
  MatrixView view;
  view.format = matrix.scalar_type() == at::kHalf ? FactorFormat::kFloat16
                : matrix.scalar_type() == at::kBFloat16
                    ? FactorFormat::kBFloat16
                    : FactorFormat::kFloat32;
  view.data = matrix.const_data_ptr();
  view.rows = matrix.size(0);
  view.cols = matrix.size(1);
  return view;
}

double MaxNorm(const at::Tensor& matrix, int64_t dim) {
  if (matrix.numel() == 0) return 0;
  return matrix.to(at::kDouble).pow(2).sum(dim).max().sqrt().item<double>();
}

double MaxAbs(const at::Tensor& tensor) {
  if (tensor.numel() == 0) return 0;
  return tensor.to(at::kDouble).abs().max().item<double>();
}

// Packed elements as a tensor on `device`.
at::Tensor Upload(const std::vector<uint16_t>& elements, at::Device device) {
  const at::Tensor host =
      at::empty({static_cast<int64_t>(elements.size())}, at::kShort);
  std::memcpy(host.data_ptr(), elements.data(),
              elements.size() * sizeof(uint16_t));
  return host.to(device);
}

// sum_b core[a, b, y, x] * in[b, q] as a matrix [a, q * y * x]: what turns a
// Tucker form into a product of two matrices. In float64, rounded once.
at::Tensor ContractCore(const at::Tensor& core, const at::Tensor& in) {
  at::Tensor contracted;
  ComputeAlone([&] {
    contracted =
        at::einsum("abyx,bq->aqyx", {core.to(at::kDouble), in.to(at::kDouble)});
  });
  return AsMatrix(contracted.to(at::kFloat));
}

// `bound`, or infinity if a product of that size may overflow float32.
double BoundOfProduct(double bound) {
  return bound < std::numeric_limits<float>::max() / 2
             ? bound
             : std::numeric_limits<double>::infinity();
}

}  // namespace

at::Tensor FactorTensor(const AdapterFactor& factor, at::ScalarType dtype) {
  return CopyToTensor(factor.tensor).to(dtype);
}

absl::Status FactorsDoNotFit(const AdapterTarget& target) {
  return Error(ErrorReason::kAdapterBaseMismatch,
               absl::StrCat("the factors of \"", target.module,
                            "\" do not fit the base's parameter"),
               {{"module", target.module}});
}

// The bound is Cauchy-Schwarz's, on rows and columns.
bool DeltaFactors::PackProduct(const at::Tensor& up, const at::Tensor& down,
                               const at::Tensor& weight,
                               LowRankFactors& factors, double& bound) {
  const MatrixSize size = MatrixSizeOf(weight);
  if (up.dim() != 2 || down.dim() != 2 || up.size(0) != size.rows ||
      up.size(1) != down.size(0) || down.size(1) != size.cols) {
    return false;
  }
  bound = MaxNorm(up, 1) * MaxNorm(down, 0);
  if (device_.is_cpu()) {
    factors = packed_
                  .emplace_back(View(up), View(down),
                                BestSwitchKernels().bfloat16_format)
                  .factors();
    return true;
  }
  const WarpFactors warp(View(up), View(down),
                         weight.scalar_type() == at::kFloat);
  const auto keep = [this](const std::vector<uint16_t>& elements) {
    return tensors_.emplace_back(Upload(elements, device_)).const_data_ptr();
  };
  factors = {warp.format, warp.rank, keep(warp.up), keep(warp.down)};
  return true;
}

at::Tensor DeltaFactors::Keep(const at::Tensor& tensor) {
  return tensors_.emplace_back(tensor.contiguous().to(device_));
}

absl::Status DeltaFactors::PackLora(const AdapterTarget& target,
                                    const at::Tensor& weight, double& bound) {
  const AdapterFactor* const up = target.Find(FactorRole::kUp);
  const AdapterFactor* const down = target.Find(FactorRole::kDown);
  const AdapterFactor* const mid = target.Find(FactorRole::kMid);
  if (up == nullptr || down == nullptr) return FactorsDoNotFit(target);
  const at::Tensor right =
      mid == nullptr
          ? AsMatrix(NativeTensor(*down))
          : ContractCore(NativeTensor(*mid), AsMatrix(NativeTensor(*down)));
  if (!PackProduct(AsMatrix(NativeTensor(*up)), right, weight, term_.first,
                   bound)) {
    return FactorsDoNotFit(target);
  }
  term_.kind = DeltaTerm::Kind::kLowRank;
  return absl::OkStatus();
}

absl::Status DeltaFactors::PackLoha(const AdapterTarget& target,
                                    const at::Tensor& weight, double& bound) {
  const auto side = [&](FactorRole a_role, FactorRole b_role, FactorRole t_role,
                        LowRankFactors& factors, double& side_bound) {
    const AdapterFactor* const a = target.Find(a_role);
    const AdapterFactor* const b = target.Find(b_role);
    const AdapterFactor* const t = target.Find(t_role);
    if (a == nullptr || b == nullptr) return false;
    at::Tensor left = AsMatrix(NativeTensor(*a));
    at::Tensor right = AsMatrix(NativeTensor(*b));
    if (t != nullptr) {
      left = left.t().contiguous();
      right = ContractCore(NativeTensor(*t), right);
    }
    return PackProduct(left, right, weight, factors, side_bound);
  };
  double first_bound = 0, second_bound = 0;
  if (!side(FactorRole::kHadaW1A, FactorRole::kHadaW1B, FactorRole::kHadaT1,
            term_.first, first_bound) ||
      !side(FactorRole::kHadaW2A, FactorRole::kHadaW2B, FactorRole::kHadaT2,
            term_.second, second_bound)) {
    return FactorsDoNotFit(target);
  }
  bound = BoundOfProduct(first_bound) * BoundOfProduct(second_bound);
  term_.kind = DeltaTerm::Kind::kHadamard;
  return absl::OkStatus();
}

absl::Status DeltaFactors::PackLokr(const AdapterTarget& target,
                                    const at::Tensor& weight, double& bound) {
  // One side: whole, or the product of its factors, in float64.
  const auto side = [&](FactorRole whole_role, FactorRole a_role,
                        FactorRole b_role,
                        const AdapterFactor* t) -> at::Tensor {
    if (const AdapterFactor* const whole = target.Find(whole_role)) {
      return AsMatrix(NativeTensor(*whole).to(at::kFloat));
    }
    const AdapterFactor* const a = target.Find(a_role);
    const AdapterFactor* const b = target.Find(b_role);
    if (a == nullptr || b == nullptr) return {};
    at::Tensor left = AsMatrix(NativeTensor(*a)).to(at::kDouble);
    at::Tensor right = AsMatrix(NativeTensor(*b)).to(at::kDouble);
    if (t != nullptr) {
      left = left.t();
      right = ContractCore(NativeTensor(*t), right).to(at::kDouble);
    }
    if (left.size(1) != right.size(0)) return {};
    at::Tensor product;
    ComputeAlone([&] { product = at::mm(left, right); });
    return product.to(at::kFloat).contiguous();
  };
  const at::Tensor w1 = side(FactorRole::kLokrW1, FactorRole::kLokrW1A,
                             FactorRole::kLokrW1B, nullptr);
  const at::Tensor w2 =
      side(FactorRole::kLokrW2, FactorRole::kLokrW2A, FactorRole::kLokrW2B,
           target.Find(FactorRole::kLokrT2));
  const MatrixSize size = MatrixSizeOf(weight);
  if (!w1.defined() || !w2.defined() || w1.numel() == 0 || w2.numel() == 0 ||
      w1.size(0) * w2.size(0) != size.rows ||
      w1.size(1) * w2.size(1) != size.cols) {
    return FactorsDoNotFit(target);
  }
  bound = MaxAbs(w1) * MaxAbs(w2);
  term_.kind = DeltaTerm::Kind::kKronecker;
  term_.w1 = Keep(w1).const_data_ptr<float>();
  term_.w2 = Keep(w2).const_data_ptr<float>();
  term_.w2_rows = w2.size(0);
  term_.w2_cols = w2.size(1);
  return absl::OkStatus();
}

absl::Status DeltaFactors::PackDiff(const AdapterTarget& target,
                                    const at::Tensor& weight, double& bound) {
  const AdapterFactor* const diff = target.Find(FactorRole::kDiff);
  if (diff == nullptr || diff->tensor.num_elements() != weight.numel()) {
    return FactorsDoNotFit(target);
  }
  const at::Tensor values = NativeTensor(*diff);
  bound = MaxAbs(values);
  term_.kind = DeltaTerm::Kind::kDense;
  term_.dense = Keep(values).const_data_ptr();
  term_.dense_format = View(values.reshape({1, -1})).format;
  return absl::OkStatus();
}

absl::StatusOr<DeltaFactors> DeltaFactors::Create(const AdapterTarget& target,
                                                  const at::Tensor& weight,
                                                  double& bound) {
  DeltaFactors factors;
  factors.device_ = weight.device();
  factors.term_.coefficient = static_cast<float>(target.scale);
  switch (target.algorithm) {
    case AdapterAlgorithm::kLora:
      GRAFT_RETURN_IF_ERROR(factors.PackLora(target, weight, bound));
      break;
    case AdapterAlgorithm::kLoha:
      GRAFT_RETURN_IF_ERROR(factors.PackLoha(target, weight, bound));
      break;
    case AdapterAlgorithm::kLokr:
      GRAFT_RETURN_IF_ERROR(factors.PackLokr(target, weight, bound));
      break;
    case AdapterAlgorithm::kDiff:
      GRAFT_RETURN_IF_ERROR(factors.PackDiff(target, weight, bound));
      break;
    default:
      return Error(ErrorReason::kInternal, "the algorithm is not additive");
  }
  // The kernels multiply the product by the scale: one that overflows stays so,
  // however small the scale.
  bound = BoundOfProduct(bound) * std::abs(target.scale);
  return factors;
}

int64_t DeltaFactors::bytes() const {
  size_t bytes = 0;
  for (const PackedFactors& packed : packed_) bytes += packed.bytes();
  for (const at::Tensor& tensor : tensors_) bytes += tensor.nbytes();
  return static_cast<int64_t>(bytes);
}

at::Tensor DeltaFactors::Evaluate(int64_t rows, int64_t cols) const {
  return SumTerms({&term_, 1}, rows, cols, device_);
}

at::Tensor SumTerms(DeltaTerms terms, int64_t rows, int64_t cols,
                    at::Device device) {
  if (terms.empty()) {
    return at::zeros({rows, cols},
                     at::TensorOptions().dtype(at::kFloat).device(device));
  }
  if (!device.is_cpu()) return SumTermsOnCuda(device, terms, rows, cols);
  const at::Tensor delta = at::empty({rows, cols}, at::kFloat);
  int rank = 1;
  for (const DeltaTerm& term : terms) {
    rank = std::max({rank, term.first.rank, term.second.rank});
  }
  TileScratch scratch(rank, static_cast<int>(terms.size()));
  BestSwitchKernels().fill_delta(terms, {0, 0, rows, cols}, cols,
                                 delta.data_ptr<float>(), cols, scratch);
  return delta;
}

}  // namespace graft

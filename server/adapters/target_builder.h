#ifndef GRAFT_SERVER_ADAPTERS_TARGET_BUILDER_H_
#define GRAFT_SERVER_ADAPTERS_TARGET_BUILDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_config.h"
#include "server/adapters/key_groups.h"
#include "server/engine/adapter_weights.h"

// What the makers of all algorithms' targets share.
namespace graft {

// What a file does to one module, checked, and what the checks noticed.
struct ModuleChange {
  std::vector<AdapterTarget> targets;         // weight before bias
  std::vector<absl::string_view> algorithms;  // as a report names them
  bool zero_alpha = false;  // alpha is 0, which means a scale of 1
  bool no_effect = false;   // the change is zero
};

// One dimension that a factor must have: a number that the base decides, or one
// that the module's factors decide and agree on, such as the rank.
class Dim {
 public:
  // Implicit, so that a shape reads {rank, 320, 3, 3}.
  Dim(int64_t size) : size_(size) {}  // NOLINT(google-explicit-constructor)
  // `size` is 0 until a factor decides it; outlives the dimension.
  Dim(absl::string_view name, int64_t* size) : name_(name), decided_(size) {}

  bool is_fixed() const { return decided_ == nullptr; }
  int64_t size() const { return is_fixed() ? size_ : *decided_; }
  absl::string_view name() const { return name_; }
  void Decide(int64_t size) { *decided_ = size; }
  // The number if it is fixed, else the name.
  std::string ToString() const;

 private:
  int64_t size_ = 0;
  absl::string_view name_;
  int64_t* decided_ = nullptr;
};

// "[8, 4, 3, 3]"
std::string ShapeToString(const std::vector<int64_t>& shape);

// [a, b, 1, 1] as [a, b]: a 1x1 convolution is a linear layer.
std::vector<int64_t> WithoutUnitKernel(std::vector<int64_t> shape);

// The shape of the base's weight as algorithms on matrices see it: [o, i], or
// [o, i, k, k] of a convolution with k > 1. ADAPTER_KIND_UNSUPPORTED for norms
// and embeddings, with the `algorithm`'s name in the message.
absl::StatusOr<std::vector<int64_t>> MatrixShape(const KeyGroup& group,
                                                 absl::string_view algorithm);

// i * k * k: the length of the rows of flat(W). `weight`: of MatrixShape.
int64_t RowLength(const std::vector<int64_t>& weight);

// ADAPTER_CORRUPT naming the first of `parts` that the group lacks.
absl::Status RequireParts(const KeyGroup& group,
                          const std::vector<KeyPart>& parts);

// ADAPTER_BASE_MISMATCH that says what shape was expected, for which base, and
// what was found.
absl::Status ShapeMismatch(const KeyGroup& group, const KeyedTensor& tensor,
                           absl::string_view expected);

// The number in a part that must be a scalar. ADAPTER_CORRUPT,
// ADAPTER_KIND_UNSUPPORTED (float8) or ADAPTER_NON_FINITE.
absl::StatusOr<double> ReadScalarPart(const KeyGroup& group,
                                      const KeyedTensor& tensor);

// Puts one target together, factor by factor.
//
//   TargetBuilder builder(group, AdapterAlgorithm::kLora);
//   int64_t rank = 0;
//   GRAFT_RETURN_IF_ERROR(builder.Add(KeyPart::kDown, FactorRole::kDown,
//                                     {{"rank", &rank}, 320}));
class TargetBuilder {
 public:
  TargetBuilder(const KeyGroup& group, AdapterAlgorithm algorithm,
                ParameterKind parameter = ParameterKind::kWeight);

  // Adds the tensor of `part`, whose shape comes out as `dims`. A trailing
  // [1, 1] may be there or not. Where there is `other`, which stands for as
  // many elements, the tensor may have that shape just as well.
  //   ADAPTER_CORRUPT           no such part; no floats; a size of 0; a size
  //                             that differs from what other factors decided
  //   ADAPTER_BASE_MISMATCH     another shape than the base decides
  //   ADAPTER_KIND_UNSUPPORTED  float8
  //   ADAPTER_NON_FINITE        NaN or infinity
  absl::Status Add(KeyPart part, FactorRole role, std::vector<Dim> dims,
                   std::vector<Dim> other = {});

  // Adds the tensor of `part` with `shape`, which has as many elements as the
  // tensor. Errors as above, but for the shape's.
  absl::Status AddReshaped(KeyPart part, FactorRole role,
                           std::vector<int64_t> shape);

  // Sets rank and scale: alpha / rank, with the file's own alpha first, then
  // that of its configuration. Neither: 1, as old trainers meant it; an alpha
  // of 1 would weaken the adapter by its rank. Errors as of
  // ReadScalarPart() for an alpha that is no finite number.
  absl::Status SetScale(const AdapterConfig& config, int64_t rank);

  AdapterTarget& target() { return target_; }
  bool zero_alpha() const { return zero_alpha_; }

  // True if the factor was added and has no value but 0.
  bool IsZero(FactorRole role) const;
  // True if any factor is zero.
  bool HasZeroFactor() const { return !zero_roles_.empty(); }

 private:
  const KeyGroup& group_;
  AdapterTarget target_;
  std::vector<FactorRole> zero_roles_;
  bool zero_alpha_ = false;
};

// The change that `builder` has built.
ModuleChange ToChange(TargetBuilder builder, absl::string_view algorithm,
                      bool no_effect);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_TARGET_BUILDER_H_

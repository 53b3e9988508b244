#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// W = w1 [a, b] x w2 [c, d, ...]: the file's w1 decides all four, as a * c and
// b * d are the base's. ComfyUI has also factored all of flat(W)'s columns, and
// then b need not divide the input channels: d is 0, and b * row the columns.
// Where it does, both are the same.
struct Sizes {
  int64_t a = 0;
  int64_t b = 0;
  int64_t c = 0;
  int64_t d = 0;
  int64_t row = 0;    // of w2 as a matrix [c, row]
  int64_t rank1 = 0;  // 0: w1 is whole
  int64_t rank2 = 0;  // 0: w2 is whole
};

// Each side is either whole or a pair.
absl::Status CheckComplete(const KeyGroup& group, KeyPart whole, KeyPart a,
                           KeyPart b) {
  const KeyedTensor* const tensor = group.Find(whole);
  if (tensor == nullptr) return RequireParts(group, {a, b});
  if (group.Find(a) == nullptr && group.Find(b) == nullptr) {
    return absl::OkStatus();
  }
  return TensorError(ErrorReason::kAdapterCorrupt, group, *tensor,
                     "is there whole and in factors; keep one of them");
}

absl::Status AddW1(const KeyGroup& group, const Shape& weight, Sizes& sizes,
                   TargetBuilder& builder) {
  const Dim a("a divisor of the rows", &sizes.a);
  const Dim b("a divisor of the columns", &sizes.b);
  const bool whole = group.Find(KeyPart::kLokrW1) != nullptr;
  if (whole) {
    GRAFT_RETURN_IF_ERROR(
        builder.Add(KeyPart::kLokrW1, FactorRole::kLokrW1, {a, b}));
  } else {
    const Dim rank("rank", &sizes.rank1);
    GRAFT_RETURN_IF_ERROR(
        builder.Add(KeyPart::kLokrW1A, FactorRole::kLokrW1A, {a, rank}));
    GRAFT_RETURN_IF_ERROR(
        builder.Add(KeyPart::kLokrW1B, FactorRole::kLokrW1B, {rank, b}));
  }
  const KeyPart rows = whole ? KeyPart::kLokrW1 : KeyPart::kLokrW1A;
  const KeyPart columns = whole ? KeyPart::kLokrW1 : KeyPart::kLokrW1B;
  if (weight[0] % sizes.a != 0) {
    return ShapeMismatch(group, *group.Find(rows),
                         absl::StrCat("a divisor of ", weight[0], " as rows"));
  }
  const bool by_channel = weight[1] % sizes.b == 0;
  const bool has_core = group.Find(KeyPart::kLokrT2) != nullptr;
  if (!by_channel && (has_core || RowLength(weight) % sizes.b != 0)) {
    return ShapeMismatch(
        group, *group.Find(columns),
        absl::StrCat("a divisor of ", weight[1], " as columns"));
  }
  sizes.c = weight[0] / sizes.a;
  sizes.d = by_channel ? weight[1] / sizes.b : 0;
  sizes.row = RowLength(weight) / sizes.b;
  return absl::OkStatus();
}

// A whole w2 of a convolution may be flattened to two dimensions.
absl::Status AddWholeW2(const Shape& weight, const Sizes& sizes,
                        TargetBuilder& builder) {
  std::vector<Dim> flat = {sizes.c, sizes.row};
  if (sizes.d == 0) {
    return builder.Add(KeyPart::kLokrW2, FactorRole::kLokrW2, std::move(flat));
  }
  std::vector<Dim> shape(weight.begin(), weight.end());
  shape[0] = sizes.c;
  shape[1] = sizes.d;
  return builder.Add(KeyPart::kLokrW2, FactorRole::kLokrW2, std::move(shape),
                     std::move(flat));
}

absl::Status AddW2(const KeyGroup& group, const Shape& weight, Sizes& sizes,
                   TargetBuilder& builder) {
  if (group.Find(KeyPart::kLokrW2) != nullptr) {
    return AddWholeW2(weight, sizes, builder);
  }
  const Dim rank("rank", &sizes.rank2);
  const KeyedTensor* const core = group.Find(KeyPart::kLokrT2);
  if (core == nullptr) {
    GRAFT_RETURN_IF_ERROR(
        builder.Add(KeyPart::kLokrW2A, FactorRole::kLokrW2A, {sizes.c, rank}));
    return builder.Add(KeyPart::kLokrW2B, FactorRole::kLokrW2B,
                       {rank, sizes.row});
  }
  if (weight.size() != 4) {
    return ShapeMismatch(group, *core,
                         "no \"lokr_t2\", which is for larger kernels,");
  }
  // With a Tucker core w2_a is transposed.
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kLokrW2A, FactorRole::kLokrW2A, {rank, sizes.c}));
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kLokrW2B, FactorRole::kLokrW2B, {rank, sizes.d}));
  return builder.Add(KeyPart::kLokrT2, FactorRole::kLokrT2,
                     {rank, rank, weight[2], weight[3]});
}

}  // namespace

absl::StatusOr<ModuleChange> MakeLokr(const KeyGroup& group,
                                      const AdapterConfig& config) {
  GRAFT_RETURN_IF_ERROR(CheckComplete(group, KeyPart::kLokrW1,
                                      KeyPart::kLokrW1A, KeyPart::kLokrW1B));
  GRAFT_RETURN_IF_ERROR(CheckComplete(group, KeyPart::kLokrW2,
                                      KeyPart::kLokrW2A, KeyPart::kLokrW2B));
  if (group.Find(KeyPart::kLokrT2) != nullptr) {
    GRAFT_RETURN_IF_ERROR(
        RequireParts(group, {KeyPart::kLokrW2A, KeyPart::kLokrW2B}));
  }
  GRAFT_ASSIGN_OR_RETURN(const Shape weight, MatrixShape(group, "LoKr"));
  TargetBuilder builder(group, AdapterAlgorithm::kLokr);
  Sizes sizes;
  GRAFT_RETURN_IF_ERROR(AddW1(group, weight, sizes, builder));
  GRAFT_RETURN_IF_ERROR(AddW2(group, weight, sizes, builder));
  const int64_t rank = sizes.rank2 != 0 ? sizes.rank2 : sizes.rank1;
  // Two whole sides have a scale of 1, whatever alpha says.
  if (rank != 0) GRAFT_RETURN_IF_ERROR(builder.SetScale(config, rank));
  const bool no_effect = builder.HasZeroFactor();
  return ToChange(std::move(builder), "lokr", no_effect);
}

}  // namespace graft

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/adapters/target_makers.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

// A matrix of each block's size is inverted in float64, in time that grows with
// its cube.
constexpr int64_t kMaxBlockSize = 2048;

absl::Status CheckBlockSize(const KeyGroup& group, int64_t size) {
  if (size <= kMaxBlockSize) return absl::OkStatus();
  return TensorError(
      ErrorReason::kAdapterKindUnsupported, group,
      *group.Find(KeyPart::kOftBlocks),
      absl::StrCat("blocks of ", size, " rows; supported are up to ",
                   kMaxBlockSize, ": train the adapter with more blocks"));
}

absl::Status AddOftBlocks(const KeyGroup& group, int64_t rows,
                          TargetBuilder& builder) {
  int64_t blocks = 0;
  int64_t size = 0;
  const Dim n("block size", &size);
  GRAFT_RETURN_IF_ERROR(builder.Add(KeyPart::kOftBlocks, FactorRole::kOftBlocks,
                                    {Dim("blocks", &blocks), n, n}));
  if (blocks * size == rows) return CheckBlockSize(group, size);
  return ShapeMismatch(group, *group.Find(KeyPart::kOftBlocks),
                       absl::StrCat("blocks of ", rows, " rows in all"));
}

// True if stage after stage of the butterfly can be laid out on the rows: the
// last takes 2^(stages - 1) blocks together.
bool ButterflyFits(int64_t stages, int64_t size, int64_t rows) {
  if (size % 2 != 0) return false;
  int64_t span = size;
  for (int64_t stage = 0; stage < stages; ++stage) {
    if (span > rows || rows % span != 0) return false;
    span *= 2;  // at most twice the rows
  }
  return true;
}

absl::Status AddBoftBlocks(const KeyGroup& group, int64_t rows,
                           TargetBuilder& builder) {
  int64_t stages = 0;
  int64_t blocks = 0;
  int64_t size = 0;
  const Dim b("block size", &size);
  GRAFT_RETURN_IF_ERROR(
      builder.Add(KeyPart::kOftBlocks, FactorRole::kOftBlocks,
                  {Dim("stages", &stages), Dim("blocks", &blocks), b, b}));
  const KeyedTensor& tensor = *group.Find(KeyPart::kOftBlocks);
  if (blocks * size != rows) {
    return ShapeMismatch(group, tensor,
                         absl::StrCat("blocks of ", rows, " rows in all"));
  }
  if (ButterflyFits(stages, size, rows)) return CheckBlockSize(group, size);
  return ShapeMismatch(
      group, tensor,
      absl::StrCat("blocks of an even size whose ", stages,
                   " butterfly stages divide ", rows, " rows"));
}

// [rows], with any number of trailing ones.
absl::Status AddRescale(const KeyGroup& group, int64_t rows,
                        TargetBuilder& builder) {
  const KeyedTensor* const rescale = group.Find(KeyPart::kOftRescale);
  if (rescale == nullptr) return absl::OkStatus();
  const Shape& shape = rescale->tensor.shape;
  const bool fits = !shape.empty() && shape[0] == rows &&
                    std::all_of(shape.begin() + 1, shape.end(),
                                [](int64_t size) { return size == 1; });
  if (!fits)
    return ShapeMismatch(group, *rescale, absl::StrCat("[", rows, "]"));
  return builder.AddReshaped(KeyPart::kOftRescale, FactorRole::kRescale,
                             {rows});
}

// Alpha is no scale here: it limits the rotation, if it is positive, in units
// of the number of rows. In OFT that ComfyUI has trained it is the limit
// itself; the names in such a file are ComfyUI's, which no other trainer of OFT
// writes.
absl::Status SetConstraint(const KeyGroup& group, int64_t rows,
                           TargetBuilder& builder) {
  const KeyedTensor* const alpha = group.Find(KeyPart::kAlpha);
  if (alpha == nullptr) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const double value, ReadScalarPart(group, *alpha));
  if (value <= 0) return absl::OkStatus();
  const bool comfy_ui = builder.target().algorithm == AdapterAlgorithm::kOft &&
                        absl::StartsWith(group.alias, "diffusion_model.");
  builder.target().constraint =
      comfy_ui ? value : value * static_cast<double>(rows);
  if (std::isfinite(static_cast<float>(builder.target().constraint))) {
    return absl::OkStatus();
  }
  return TensorError(ErrorReason::kAdapterNonFinite, group, *alpha,
                     "a constraint beyond float32");
}

}  // namespace

absl::StatusOr<ModuleChange> MakeOft(const KeyGroup& group,
                                     const AdapterConfig& /*config*/) {
  GRAFT_RETURN_IF_ERROR(RequireParts(group, {KeyPart::kOftBlocks}));
  const bool butterfly =
      group.Find(KeyPart::kOftBlocks)->tensor.shape.size() == 4;
  GRAFT_ASSIGN_OR_RETURN(const Shape weight,
                         MatrixShape(group, butterfly ? "BOFT" : "OFT"));
  TargetBuilder builder(
      group, butterfly ? AdapterAlgorithm::kBoft : AdapterAlgorithm::kOft);
  GRAFT_RETURN_IF_ERROR(
      (butterfly ? AddBoftBlocks : AddOftBlocks)(group, weight[0], builder));
  GRAFT_RETURN_IF_ERROR(AddRescale(group, weight[0], builder));
  GRAFT_RETURN_IF_ERROR(SetConstraint(group, weight[0], builder));
  const bool no_effect = builder.IsZero(FactorRole::kOftBlocks) &&
                         group.Find(KeyPart::kOftRescale) == nullptr;
  return ToChange(std::move(builder), butterfly ? "boft" : "oft", no_effect);
}

}  // namespace graft

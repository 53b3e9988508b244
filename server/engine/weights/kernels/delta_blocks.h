#ifndef GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_DELTA_BLOCKS_H_
#define GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_DELTA_BLOCKS_H_

#include <cstdint>
#include <type_traits>

#include "server/engine/weights/kernels/switch_tile.h"
#include "server/engine/weights/kernels/weight_bits.h"

// D, the change that adapters make, one block at a time; for the files that
// compile the pass once per instruction set (see switch_tile_impl.h, which says
// what `Isa` supplies).
// A call per row would cost as much as the row.
#define GRAFT_INLINE inline __attribute__((always_inline))

namespace graft {
namespace {

inline float WidenElement(FactorFormat format, const void* data, int64_t i) {
  switch (format) {
    case FactorFormat::kFloat32:
      return static_cast<const float*>(data)[i];
    case FactorFormat::kFloat16:
      return Float16Weight::Widen(static_cast<const uint16_t*>(data)[i]);
    default:
      return BFloat16Weight::Widen(static_cast<const uint16_t*>(data)[i]);
  }
}

// Rows `panel` of `factors.up` as Product reads them: where they lie, or
// widened to `out`.
inline const void* UpPanel(const LowRankFactors& factors, int64_t panel,
                           float* out) {
  const int64_t size = int64_t{factors.rank} * kBlockRows;
  switch (factors.format) {
    case FactorFormat::kFloat32:
      return static_cast<const float*>(factors.up) + panel * size;
    case FactorFormat::kBFloat16Pairs:
    case FactorFormat::kBFloat16Tiles:
      return static_cast<const uint16_t*>(factors.up) + panel * size;
    default:
      for (int64_t i = 0; i < size; ++i) {
        out[i] = WidenElement(factors.format, factors.up, panel * size + i);
      }
      return out;
  }
}

inline const void* DownPanel(const LowRankFactors& factors, int64_t panel) {
  const int64_t size = int64_t{factors.rank} * kBlockCols;
  if (factors.format == FactorFormat::kFloat32) {
    return static_cast<const float*>(factors.down) + panel * size;
  }
  return static_cast<const uint16_t*>(factors.down) + panel * size;
}

// D = c * p of a block that lies in memory, row by row. It is not multiplied
// out: adding it to a weight of 16 bits is one fused operation.
template <class Isa>
struct StoredDelta {
  float c;
  const float* p;
  GRAFT_INLINE typename Isa::DeltaRow Row(int i) const {
    return Isa::Scaled(c, Isa::LoadRow(p + i * kBlockCols));
  }
};

// The same of a product that lies wherever an Isa keeps it.
template <class Isa, class Sums>
struct ProductDelta {
  float c;
  const Sums& p;
  GRAFT_INLINE typename Isa::DeltaRow Row(int i) const {
    return Isa::Scaled(c, p.Row(i));
  }
};

// d = c * p, or d = c * p + d in one operation.
inline void Accumulate(const float* p, float c, bool add, float* d) {
  if (add) {
    for (int i = 0; i < kBlockSize; ++i) d[i] = __builtin_fmaf(c, p[i], d[i]);
  } else {
    for (int i = 0; i < kBlockSize; ++i) d[i] = c * p[i];
  }
}

// D of one block at a time, of the blocks of one row panel after another.
template <class Isa>
class DeltaBlocks {
 public:
  // `first_panel`: of the scratch, for this sum's products.
  DeltaBlocks(DeltaTerms terms, int64_t rows_end, int64_t cols,
              TileScratch& scratch, int first_panel)
      : terms_(terms),
        rows_end_(rows_end),
        cols_(cols),
        scratch_(scratch),
        first_panel_(first_panel) {}

  bool empty() const { return terms_.empty(); }

  // `row`: a multiple of kBlockRows.
  void StartRowPanel(int64_t row) {
    row_ = row;
    staged_group_ = -1;
    int index = first_panel_;
    for (const DeltaTerm& term : terms_) {
      if (term.kind == DeltaTerm::Kind::kLowRank ||
          term.kind == DeltaTerm::Kind::kHadamard) {
        PreparePanel(term.first, index++);
      }
      if (term.kind == DeltaTerm::Kind::kHadamard) {
        PreparePanel(term.second, index++);
      }
    }
  }

  // Calls rows(delta), where delta.Row(i) is row i of D. The product of the
  // usual adapter, one of low rank, never leaves the registers.
  template <class Rows>
  GRAFT_INLINE void Visit(int64_t col, Rows rows) {
    if (terms_.size() == 1 && terms_[0].kind == DeltaTerm::Kind::kLowRank) {
      const LowRankFactors& factors = terms_[0].first;
      if constexpr (Isa::kStagedBlocks > 0) {
        if (factors.format == FactorFormat::kBFloat16Tiles) {
          rows(StoredDelta<Isa>{terms_[0].coefficient,
                                Staged(factors, col / kBlockCols)});
          return;
        }
      }
      Isa::WithProduct(
          factors.format, factors.rank, scratch_.up_panels[first_panel_],
          DownPanel(factors, col / kBlockCols),
          [&](auto& sums) __attribute__((always_inline)) {
            rows(ProductDelta<Isa, std::remove_reference_t<decltype(sums)>>{
                terms_[0].coefficient, sums});
          });
      return;
    }
    alignas(64) float p[kBlockSize];
    const float c = Fill(col, p);
    rows(StoredDelta<Isa>{c, p});
  }

  // D is what is returned times `d`, [8][32]: of one term the coefficient, else
  // 1.
  float Fill(int64_t col, float* d) {
    const bool alone = terms_.size() == 1;
    bool add = false;
    int index = first_panel_;
    for (const DeltaTerm& term : terms_) {
      const float c = alone ? 1 : term.coefficient;
      switch (term.kind) {
        case DeltaTerm::Kind::kLowRank:
          Product(term.first, index++, col, c, add, d);
          break;
        case DeltaTerm::Kind::kHadamard: {
          alignas(64) float p[kBlockSize], q[kBlockSize];
          Product(term.first, index++, col, 1, false, p);
          Product(term.second, index++, col, 1, false, q);
          for (int i = 0; i < kBlockSize; ++i) p[i] *= q[i];
          Accumulate(p, c, add, d);
          break;
        }
        case DeltaTerm::Kind::kKronecker: {
          alignas(64) float p[kBlockSize] = {};
          FillKronecker(term, col, p);
          Accumulate(p, c, add, d);
          break;
        }
        case DeltaTerm::Kind::kDense: {
          alignas(64) float p[kBlockSize] = {};
          FillDense(term, col, p);
          Accumulate(p, c, add, d);
          break;
        }
      }
      add = true;
    }
    return alone ? terms_[0].coefficient : 1;
  }

 private:
  // The product of column panel `panel`, made together with its neighbours'.
  const float* Staged(const LowRankFactors& factors, int64_t panel) {
    const int64_t group = panel / Isa::kStagedBlocks;
    const int64_t first = group * Isa::kStagedBlocks;
    if (group != staged_group_) {
      const int64_t left = (cols_ + kBlockCols - 1) / kBlockCols - first;
      Isa::StageProducts(
          factors.rank, scratch_.up_panels[first_panel_],
          DownPanel(factors, first),
          static_cast<int>(left < Isa::kStagedBlocks ? left
                                                     : Isa::kStagedBlocks),
          staged_);
      staged_group_ = group;
    }
    return staged_ + (panel - first) * kBlockSize;
  }

  void PreparePanel(const LowRankFactors& factors, int index) {
    scratch_.up_panels[index] =
        UpPanel(factors, row_ / kBlockRows, scratch_.widened_up_panel(index));
  }

  void Product(const LowRankFactors& factors, int index, int64_t col,
               float coefficient, bool add, float* d) {
    Isa::WithProduct(
        factors.format, factors.rank, scratch_.up_panels[index],
        DownPanel(factors, col / kBlockCols),
        [&](const auto& sums) { sums.Store(coefficient, add, d); });
  }

  int RowsHere() const {
    const int64_t left = rows_end_ - row_;
    return static_cast<int>(left < kBlockRows ? left : kBlockRows);
  }
  int ColsHere(int64_t col) const {
    const int64_t left = cols_ - col;
    return static_cast<int>(left < kBlockCols ? left : kBlockCols);
  }

  void FillKronecker(const DeltaTerm& term, int64_t col, float* p) const {
    const int cols = ColsHere(col);
    for (int i = 0; i < RowsHere(); ++i) {
      const int64_t row = row_ + i;
      const float* const w1 =
          term.w1 + row / term.w2_rows * (cols_ / term.w2_cols);
      const float* const w2 = term.w2 + row % term.w2_rows * term.w2_cols;
      int64_t j1 = col / term.w2_cols;
      int64_t j2 = col % term.w2_cols;
      for (int j = 0; j < cols; ++j) {
        p[i * kBlockCols + j] = w1[j1] * w2[j2];
        if (++j2 == term.w2_cols) {
          j2 = 0;
          ++j1;
        }
      }
    }
  }

  void FillDense(const DeltaTerm& term, int64_t col, float* p) const {
    const int cols = ColsHere(col);
    for (int i = 0; i < RowsHere(); ++i) {
      const int64_t from = (row_ + i) * cols_ + col;
      for (int j = 0; j < cols; ++j) {
        p[i * kBlockCols + j] =
            WidenElement(term.dense_format, term.dense, from + j);
      }
    }
  }

  const DeltaTerms terms_;
  const int64_t rows_end_;
  const int64_t cols_;
  TileScratch& scratch_;
  const int first_panel_;
  int64_t row_ = 0;
  // Products of kStagedBlocks neighbours in the row panel, and the group's
  // number. An array has at least one element.
  alignas(64) float staged_[Isa::kStagedBlocks * kBlockSize + 1];
  int64_t staged_group_ = -1;
};

inline int NumProducts(DeltaTerms terms) {
  int count = 0;
  for (const DeltaTerm& term : terms) {
    count += term.kind == DeltaTerm::Kind::kLowRank    ? 1
             : term.kind == DeltaTerm::Kind::kHadamard ? 2
                                                       : 0;
  }
  return count;
}

}  // namespace
}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_WEIGHTS_KERNELS_DELTA_BLOCKS_H_

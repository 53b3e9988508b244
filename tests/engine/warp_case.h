#ifndef GRAFT_TESTS_ENGINE_WARP_CASE_H_
#define GRAFT_TESTS_ENGINE_WARP_CASE_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <list>
#include <random>
#include <vector>

#include "server/engine/cuda/switch_launch.h"
#include "server/engine/weights/kernels/packed_factors.h"
#include "server/engine/weights/kernels/switch_tile.h"
#include "tests/engine/warp_runner.h"

namespace graft {

// A term, in the forms that a warp's pass and the CPU's read.
struct TwinTerm {
  DeltaTerm warp;
  DeltaTerm cpu;
};

struct TwinTerms {
  std::vector<DeltaTerm> warp;
  std::vector<DeltaTerm> cpu;

  void Add(const TwinTerm& term) {
    warp.push_back(term.warp);
    cpu.push_back(term.cpu);
  }
};

// What a switch to one set left behind.
struct WarpState {
  std::vector<DeltaTerm> terms;
  std::vector<TileRecord> records;
  AlignedBytes log;
};

// A parameter with a random W0, its memory, random changes of it, and launches
// that make them.
class WarpCase {
 public:
  // W0 has magnitudes from denormal to large, and both zeros. `norm`: the size
  // of a term's D beside it.
  WarpCase(WarpRunner& runner, WeightDtype dtype, int64_t rows, int64_t cols,
           double norm, uint32_t seed = 1);

  // W0 as real weights are.
  void FillNormal();
  void FillZero();

  const TileGrid& grid() const { return grid_; }
  uint64_t num_tiles() const {
    return static_cast<uint64_t>(grid_.num_tiles());
  }
  uint8_t* live() const { return live_.data(); }
  std::vector<uint8_t> weights() const { return Bytes(live_); }
  const std::vector<uint8_t>& base() const { return base_; }

  // ---- Terms ----------------------------------------------------------------

  TwinTerm LowRank(FactorFormat format, int rank);
  TwinTerm Hadamard(FactorFormat format, int rank);
  TwinTerm Kronecker();
  TwinTerm Dense(FactorFormat format);

  // Products alone, as many as that, in both formats that tensor cores take.
  TwinTerms Products(int count);

  // Of every kind, in every format that tensor cores take.
  TwinTerms AllKinds();

  // ---- Launches -------------------------------------------------------------

  // The parameter on its way; both states may be empty, and outlive the launch.
  SwitchParameter Parameter(const WarpState* from, WarpState* to);

  // Runs all tiles; returns what became of each.
  std::vector<TileState> Run(const SwitchParameter& parameter,
                             uint64_t capacity = UINT64_MAX);

  // Then those of them that found no room for their logs, all of which there
  // is behind the first `taken` bytes.
  void RunAgain(const SwitchParameter& parameter, uint64_t taken,
                std::vector<TileState>& states);

  // No tile goes the plain way.
  void ForbidPlain() { plain_ = false; }

  // Those that do go the way for sums, where there is one product too.
  void TakeAllForSums() { always_sums_ = true; }

  // As Run(), and all tiles must be done.
  void Switch(const WarpState* from, WarpState* to,
              std::vector<uint64_t>* checksums = nullptr);

  std::vector<uint64_t> Checksums();

  // Of the last launch.
  const SwitchSummary& summary() const { return summary_; }

  // D of these terms.
  std::vector<float> SumTerms(std::vector<DeltaTerm> terms);

  // What the portable CPU code makes of these weights.
  std::vector<uint8_t> MergeOnCpu(DeltaTerms terms);

 private:
  void Fill(const std::function<float(int64_t)>& value_of);
  void Launch(SwitchParameter parameter, SwitchLaunch& launch,
              std::vector<TileState>& states);
  void AddFactors(std::vector<LaunchBuffer>& buffers) const;
  static std::vector<uint8_t> Bytes(const AlignedBytes& bytes);
  void AddProduct(TwinTerm& term, LowRankFactors DeltaTerm::*side,
                  FactorFormat format, int rank);
  const void* Keep(const std::vector<uint16_t>& elements);
  const void* Elements(FactorFormat format, int64_t count);

  WarpRunner& runner_;
  const WeightDtype dtype_;
  const TileGrid grid_;
  const double norm_;
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
  AlignedBytes live_;
  std::vector<uint8_t> base_;
  std::list<AlignedBytes> memory_;
  std::list<PackedFactors> packed_;
  std::vector<DeltaTerm> table_;
  SwitchLaunch launch_;
  SwitchSummary summary_;
  bool plain_ = true;
  bool always_sums_ = false;
};

// The cases of warp_tile_test.cc, for whoever runs launches.
class WarpTileTest : public ::testing::TestWithParam<WarpRunner& (*)()> {
 protected:
  static WarpRunner& runner() { return GetParam()(); }
};

}  // namespace graft

#endif  // GRAFT_TESTS_ENGINE_WARP_CASE_H_

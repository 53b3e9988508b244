#include "server/engine/cuda/warp_tile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "server/engine/cuda/lane_codec.h"
#include "server/engine/cuda/plain_tile.h"
#include "server/engine/cuda/warp_factors.h"
#include "server/engine/weights/kernels/packed_factors.h"
#include "server/engine/weights/kernels/switch_tile.h"
#include "tests/engine/host_warp.h"
#include "tests/engine/weight_rounding.h"

// The CUDA kernels' pass over a tile, compiled as C++ and run by a warp whose
// lanes take turns, against the CPU's.

namespace graft {
namespace {

// A term, in the forms that both passes read.
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

// A parameter with a random W0, its memory, and random changes of it.
class WarpCase {
 public:
  WarpCase(WeightDtype dtype, int64_t rows, int64_t cols, double norm,
           uint32_t seed = 1)
      : dtype_(dtype),
        grid_(rows, cols, kWarpTileRows, kWarpTileCols),
        norm_(norm),
        random_(seed),
        live_(static_cast<size_t>(rows * cols) * WeightDtypeSize(dtype)) {
    // Magnitudes from denormal to large, and both zeros.
    Fill([this](int64_t i) {
      const float value = normal_(random_);
      if (i % 97 == 0) return i % 2 == 0 ? 0.0F : -0.0F;
      if (i % 89 == 0) return std::ldexp(value, -140);
      return i % 83 == 0 ? std::ldexp(value, -20) : value;
    });
  }

  // W0 as real weights are.
  void FillNormal() {
    Fill([this](int64_t) { return normal_(random_); });
  }

  const TileGrid& grid() const { return grid_; }
  uint64_t num_tiles() const {
    return static_cast<uint64_t>(grid_.num_tiles());
  }
  uint8_t* live() const { return live_.data(); }
  std::vector<uint8_t> weights() const { return Bytes(live_); }
  const std::vector<uint8_t>& base() const { return base_; }

  // W0 of which the product's D has `norm` times the size.
  TwinTerm LowRank(FactorFormat format, int rank) {
    TwinTerm term;
    SetBoth(term, &DeltaTerm::coefficient,
            static_cast<float>(norm_ / std::sqrt(rank)));
    AddProduct(term, &DeltaTerm::first, format, rank);
    return term;
  }

  TwinTerm Hadamard(FactorFormat format, int rank) {
    TwinTerm term;
    SetBoth(term, &DeltaTerm::kind, DeltaTerm::Kind::kHadamard);
    SetBoth(term, &DeltaTerm::coefficient, static_cast<float>(norm_ / rank));
    AddProduct(term, &DeltaTerm::first, format, rank);
    AddProduct(term, &DeltaTerm::second, format, rank);
    return term;
  }

  TwinTerm Kronecker() {
    DeltaTerm term;
    term.kind = DeltaTerm::Kind::kKronecker;
    term.coefficient = static_cast<float>(norm_);
    term.w2_rows = grid_.rows() % 2 == 0 ? grid_.rows() / 2 : grid_.rows();
    term.w2_cols = grid_.cols() % 3 == 0 ? grid_.cols() / 3 : grid_.cols();
    const auto floats = [this](int64_t count) {
      return static_cast<const float*>(Elements(FactorFormat::kFloat32, count));
    };
    term.w1 =
        floats(grid_.rows() / term.w2_rows * (grid_.cols() / term.w2_cols));
    term.w2 = floats(term.w2_rows * term.w2_cols);
    return {term, term};
  }

  TwinTerm Dense(FactorFormat format) {
    DeltaTerm term;
    term.kind = DeltaTerm::Kind::kDense;
    term.coefficient = static_cast<float>(norm_);
    term.dense = Elements(format, grid_.rows() * grid_.cols());
    term.dense_format = format;
    return {term, term};
  }

  // Products alone, as many as that, in both formats that tensor cores take.
  TwinTerms Products(int count) {
    constexpr int kRanks[] = {5, 33, 16};
    TwinTerms terms;
    for (int i = 0; i < count; ++i) {
      terms.Add(
          LowRank(i % 2 == 0 ? FactorFormat::kBFloat16 : FactorFormat::kFloat16,
                  kRanks[i % 3]));
    }
    return terms;
  }

  // Of every kind, in every format that tensor cores take.
  TwinTerms AllKinds() {
    TwinTerms terms;
    terms.Add(LowRank(FactorFormat::kBFloat16, 5));
    terms.Add(LowRank(FactorFormat::kFloat16, 33));
    terms.Add(Hadamard(FactorFormat::kFloat16, 2));
    terms.Add(Kronecker());
    terms.Add(Dense(FactorFormat::kFloat32));
    terms.Add(Dense(FactorFormat::kBFloat16));
    return terms;
  }

  // The parameter on its way; both states may be empty, and outlive the launch.
  SwitchParameter Parameter(const WarpState* from, WarpState* to) {
    SwitchParameter parameter;
    parameter.rows = grid_.rows();
    parameter.cols = grid_.cols();
    parameter.dtype = dtype_;
    parameter.live = live_.data();
    table_.clear();
    if (from != nullptr) {
      table_ = from->terms;
      parameter.num_old_terms = static_cast<uint32_t>(from->terms.size());
      parameter.old_records = from->records.data();
      launch_.old_log = from->log.data();
      launch_.old_log_capacity = from->log.size();
    }
    if (to != nullptr) {
      parameter.new_terms = static_cast<uint32_t>(table_.size());
      parameter.num_new_terms = static_cast<uint32_t>(to->terms.size());
      table_.insert(table_.end(), to->terms.begin(), to->terms.end());
      to->records.resize(num_tiles());
      if (to->log.size() == 0) to->log = AlignedBytes(num_tiles() * 8192);
      parameter.new_records = to->records.data();
      launch_.new_log = to->log.data();
      launch_.new_log_capacity = to->log.size();
    }
    return parameter;
  }

  // Runs all tiles; returns what became of each.
  std::vector<TileState> Run(const SwitchParameter& parameter,
                             uint64_t capacity = UINT64_MAX) {
    // In a first launch nobody looks at them.
    std::vector<TileState> states(num_tiles(), TileState::kSkip);
    SwitchLaunch launch = launch_;
    launch.new_log_capacity = std::min(capacity, launch.new_log_capacity);
    launch.all = true;
    summary_ = {};
    Launch(parameter, launch, states);
    return states;
  }

  // Then those of them that found no room for their logs, all of which there
  // is behind the first `taken` bytes.
  void RunAgain(const SwitchParameter& parameter, uint64_t taken,
                std::vector<TileState>& states) {
    SwitchLaunch launch = launch_;
    launch.pending = TileState::kNoRoom;
    summary_ = {};
    summary_.log_bytes = taken;
    Launch(parameter, launch, states);
  }

  // No tile goes the plain way.
  void ForbidPlain() { plain_ = false; }

  // Those that do go the way for sums, where there is one product too.
  void TakeAllForSums() { always_sums_ = true; }

  // As Run(), and all tiles must be done.
  void Switch(const WarpState* from, WarpState* to,
              std::vector<uint64_t>* checksums = nullptr) {
    SwitchParameter parameter = Parameter(from, to);
    if (checksums != nullptr) parameter.checksums = checksums->data();
    for (const TileState state : Run(parameter)) {
      ASSERT_EQ(state, TileState::kDone);
    }
  }

  std::vector<uint64_t> Checksums() {
    std::vector<uint64_t> sums(num_tiles());
    SwitchParameter parameter = Parameter(nullptr, nullptr);
    parameter.sums = sums.data();
    Run(parameter);
    return sums;
  }

  const SwitchSummary& summary() const { return summary_; }

  // What the portable CPU code makes of these weights.
  std::vector<uint8_t> MergeOnCpu(DeltaTerms terms) {
    const std::vector<uint8_t> before = weights();
    TileScratch scratch(64, 8);
    for (int64_t i = 0; i < grid_.num_tiles(); ++i) {
      TileJob job;
      job.live = live_.data();
      job.cols = grid_.cols();
      job.range = grid_.tile(i);
      job.new_terms = terms;
      RunnableSwitchKernels().front()->For(dtype_)(job, scratch);
    }
    const std::vector<uint8_t> merged = weights();
    std::memcpy(live_.data(), before.data(), before.size());
    return merged;
  }

 private:
  template <class F>
  void Fill(F value_of) {
    const size_t size = WeightDtypeSize(dtype_);
    for (int64_t i = 0; i < grid_.rows() * grid_.cols(); ++i) {
      const uint32_t bits = RoundTo(dtype_, value_of(i));
      std::memcpy(live_.data() + static_cast<size_t>(i) * size, &bits, size);
    }
    base_ = Bytes(live_);
  }

  void Launch(SwitchParameter parameter, SwitchLaunch& launch,
              std::vector<TileState>& states) {
    parameter.plain = plain_ && IsPlain(parameter, table_.data());
    launch.parameters = &parameter;
    launch.num_parameters = 1;
    launch.terms = table_.data();
    launch.num_tiles = num_tiles();
    launch.states = states.data();
    launch.summary = &summary_;
    std::vector<uint32_t> rest(num_tiles());
    if (parameter.plain) launch.rest = rest.data();
    launch.sums = always_sums_ || HasSums(parameter);
    switch (dtype_) {
      case WeightDtype::kFloat32:
        RunTiles<Float32Weight>(launch);
        break;
      case WeightDtype::kBFloat16:
        RunTiles<BFloat16Weight>(launch);
        break;
      case WeightDtype::kFloat16:
        RunTiles<Float16Weight>(launch);
        break;
    }
  }

  static std::vector<uint8_t> Bytes(const AlignedBytes& bytes) {
    return {bytes.data(), bytes.data() + bytes.size()};
  }

  template <class T>
  static void SetBoth(TwinTerm& term, T DeltaTerm::*member, T value) {
    term.warp.*member = term.cpu.*member = value;
  }

  void AddProduct(TwinTerm& term, LowRankFactors DeltaTerm::*side,
                  FactorFormat format, int rank) {
    const MatrixView up{format, Elements(format, grid_.rows() * rank),
                        grid_.rows(), rank};
    const MatrixView down{format, Elements(format, rank * grid_.cols()), rank,
                          grid_.cols()};
    packed_.emplace_back(up, down, FactorFormat::kBFloat16);
    term.cpu.*side = packed_.back().factors();
    const WarpFactors factors(up, down, dtype_ == WeightDtype::kFloat32);
    term.warp.*side = {factors.format, factors.rank, Keep(factors.up),
                       Keep(factors.down)};
  }

  const void* Keep(const std::vector<uint16_t>& elements) {
    AlignedBytes& bytes =
        memory_.emplace_back(elements.size() * sizeof(uint16_t));
    std::memcpy(bytes.data(), elements.data(), bytes.size());
    return bytes.data();
  }

  const void* Elements(FactorFormat format, int64_t count) {
    const size_t size = format == FactorFormat::kFloat32 ? 4 : 2;
    AlignedBytes& bytes =
        memory_.emplace_back(static_cast<size_t>(count) * size);
    for (int64_t i = 0; i < count; ++i) {
      const float value = normal_(random_);
      const uint32_t bits = format == FactorFormat::kFloat32 ? FloatBits(value)
                            : format == FactorFormat::kFloat16
                                ? Float16Weight::Round(value)
                                : BFloat16Weight::Round(value);
      std::memcpy(bytes.data() + static_cast<size_t>(i) * size, &bits, size);
    }
    return bytes.data();
  }

  // As the two kernels do.
  template <class Weight>
  void RunTiles(const SwitchLaunch& launch) {
    using Bits = typename Weight::Bits;
    uint64_t count = launch.num_tiles;
    if (launch.rest != nullptr) {
      for (uint64_t tile = 0; tile < count; ++tile) {
        const auto scratch = DirtyScratch<PlainScratch<Bits>>();
        if (launch.sums) {
          RunPlainTile<HostWarp, Weight, true>(launch, dtype_, tile, *scratch);
        } else {
          RunPlainTile<HostWarp, Weight, false>(launch, dtype_, tile, *scratch);
        }
        EXPECT_TRUE(HostWarp::copies.empty()) << "into memory of others";
      }
      count = launch.summary->num_rest;
    }
    for (uint64_t i = 0; i < count; ++i) {
      const auto scratch = DirtyScratch<WarpScratch<Bits>>();
      RunWarpTile<HostWarp, Weight>(launch, dtype_,
                                    launch.rest != nullptr ? launch.rest[i] : i,
                                    *scratch);
      EXPECT_TRUE(HostWarp::copies.empty()) << "into memory of others";
    }
  }

  // What the last warp left in shared memory must not matter.
  template <class Scratch>
  static std::unique_ptr<Scratch> DirtyScratch() {
    auto scratch = std::make_unique<Scratch>();
    std::memset(scratch.get(), 0xa5, sizeof(*scratch));
    return scratch;
  }

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

// Sizes with whole steps, with edges of every sort, and with several tiles.
struct Size {
  int64_t rows;
  int64_t cols;
};
constexpr Size kSizes[] = {{16, 32}, {1, 1},   {1, 70},   {3, 31},
                           {9, 33},  {40, 36}, {64, 128}, {129, 200}};

TEST(WarpTileTest, SameBitsAsOnTheCpu) {
  for (const WeightDtype dtype : kDtypes) {
    for (const Size& size : kSizes) {
      WarpCase weights(dtype, size.rows, size.cols, 0.1);
      const TwinTerms terms = weights.AllKinds();
      const std::vector<uint8_t> expected = weights.MergeOnCpu(terms.cpu);
      std::vector<uint64_t> checksums = weights.Checksums();
      WarpState merged{terms.warp, {}, {}};
      weights.Switch(nullptr, &merged, &checksums);
      ASSERT_EQ(weights.weights(), expected) << size.rows << "x" << size.cols;
    }
  }
}

// Tiles without edges, whose terms are products: from the base to one, to two,
// to three of them, and back.
TEST(WarpTileTest, SumsOfProductsOnWholeTiles) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(dtype, 64, 128, 0.1);
    std::list<WarpState> states;
    std::vector<std::vector<uint8_t>> expected;
    std::vector<uint64_t> checksums = weights.Checksums();
    for (int count = 1; count <= 3; ++count) {
      const TwinTerms terms = weights.Products(count);
      expected.push_back(weights.MergeOnCpu(terms.cpu));
      states.push_back({terms.warp, {}, {}});
    }
    WarpState* from = nullptr;
    for (WarpState& to : states) {
      weights.Switch(from, &to, &checksums);
      ASSERT_EQ(weights.weights(), expected[to.terms.size() - 1])
          << to.terms.size() << " products";
      from = &to;
    }
    weights.Switch(from, nullptr, &checksums);
    ASSERT_EQ(weights.weights(), weights.base());
  }
}

// All ways make the same weights and the same logs; the plain ones take every
// tile that they can.
TEST(WarpTileTest, PlainWaysAreAsTheGeneralOne) {
  for (const WeightDtype dtype : kDtypes) {
    for (const double norm : {0.003, 0.1, 3.0}) {
      WarpCase plain(dtype, 65, 192, norm), sums(dtype, 65, 192, norm),
          general(dtype, 65, 192, norm);
      sums.TakeAllForSums();
      general.ForbidPlain();
      std::list<WarpState> states;
      const WarpState* from[] = {nullptr, nullptr, nullptr};
      for (const int count : {1, 1, 3, 2, 0, 2, 0, 1, 0}) {
        const auto next = [&](WarpCase& weights, const WarpState*& now) {
          const TwinTerms terms = weights.Products(count);
          WarpState* to = nullptr;
          if (count > 0) {
            to = &states.emplace_back(WarpState{terms.warp, {}, {}});
          }
          weights.Switch(now, to);
          now = to;
        };
        next(plain, from[0]);
        next(sums, from[1]);
        next(general, from[2]);
        ASSERT_EQ(plain.weights(), general.weights());
        ASSERT_EQ(sums.weights(), general.weights());
        EXPECT_EQ(plain.summary().log_bytes, general.summary().log_bytes);
        EXPECT_EQ(sums.summary().log_bytes, general.summary().log_bytes);
        // The last row of three tiles is an edge.
        EXPECT_GE(plain.summary().num_rest, 3u);
        if (norm < 1) {
          EXPECT_EQ(plain.summary().num_rest, 3u);
        }
      }
      EXPECT_EQ(plain.weights(), plain.base());
    }
  }
}

// From a set to another by a copy of W0, as --restore=backup keeps: whatever is
// live and whatever the old terms are, and without a log.
TEST(WarpTileTest, MergesIntoACopyOnWholeTiles) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(dtype, 64, 128, 0.1);
    const TwinTerms terms = weights.Products(2);
    std::vector<uint64_t> checksums = weights.Checksums();
    const std::vector<uint8_t> expected = weights.MergeOnCpu(terms.cpu);
    AlignedBytes copy(weights.base().size());
    std::memcpy(copy.data(), weights.base().data(), copy.size());
    std::memset(weights.live(), 0x11, copy.size());
    WarpState from{weights.AllKinds().warp, {}, {}}, to{terms.warp, {}, {}};
    SwitchParameter parameter = weights.Parameter(&from, &to);
    parameter.pristine = copy.data();
    parameter.old_records = nullptr;
    parameter.new_records = nullptr;
    parameter.checksums = checksums.data();
    for (const TileState state : weights.Run(parameter)) {
      EXPECT_EQ(state, TileState::kDone);
    }
    EXPECT_EQ(weights.weights(), expected);
    EXPECT_EQ(weights.summary().log_bytes, 0u);

    copy.data()[100] ^= 4;
    EXPECT_EQ(weights.Run(parameter)[0], TileState::kDrifted);
  }
}

// Promise 1 in the small: from the base to a set, to another, and back.
TEST(WarpTileTest, RestoresEveryBit) {
  for (const WeightDtype dtype : kDtypes) {
    for (const Size& size : kSizes) {
      for (const double norm : {0.003, 0.1, 3.0, 1e4}) {
        WarpCase weights(dtype, size.rows, size.cols, norm);
        TwinTerms low_rank;
        low_rank.Add(weights.LowRank(FactorFormat::kFloat32, 4));
        const TwinTerms all = weights.AllKinds();
        std::vector<uint64_t> checksums = weights.Checksums();
        WarpState first{low_rank.warp, {}, {}}, second{all.warp, {}, {}};
        WarpState again{low_rank.warp, {}, {}};
        weights.Switch(nullptr, &first, &checksums);
        const std::vector<uint8_t> merged = weights.weights();
        EXPECT_NE(merged, weights.base());
        weights.Switch(&first, &second, &checksums);
        weights.Switch(&second, &again, &checksums);
        EXPECT_EQ(weights.weights(), merged);
        weights.Switch(&again, nullptr, &checksums);
        ASSERT_EQ(weights.weights(), weights.base())
            << "dtype " << static_cast<int>(dtype) << " " << size.rows << "x"
            << size.cols << " norm " << norm;
      }
    }
  }
}

TEST(WarpTileTest, KeepsWhatACodeCannotSay) {
  for (const WeightDtype dtype : kDtypes) {
    // So large that nothing of W0 is left: more exceptions than a log holds.
    WarpCase weights(dtype, 64, 64, 1e4);
    TwinTerms terms;
    terms.Add(weights.Dense(FactorFormat::kFloat32));
    WarpState merged{terms.warp, {}, {}};
    weights.Switch(nullptr, &merged);
    for (const TileRecord& record : merged.records) {
      EXPECT_EQ(record.kind, TileRecord::Kind::kRaw);
    }
    weights.Switch(&merged, nullptr);
    EXPECT_EQ(weights.weights(), weights.base());
  }
}

TEST(WarpTileTest, RestoresWhatIsNotFinite) {
  WarpCase weights(WeightDtype::kBFloat16, 20, 40, 0.1);
  const uint16_t odd[] = {0x7f80, 0xff80, 0x7fc0, 0x7f81, 0xffff, 0x7f7f};
  std::memcpy(weights.live() + 64, odd, sizeof(odd));
  const std::vector<uint8_t> before = weights.weights();
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kBFloat16, 3));
  WarpState merged{terms.warp, {}, {}};
  weights.Switch(nullptr, &merged);
  weights.Switch(&merged, nullptr);
  EXPECT_EQ(weights.weights(), before);
}

TEST(WarpTileTest, LogIsSmall) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(dtype, 256, 256, 0.1);
    weights.FillNormal();
    TwinTerms terms;
    terms.Add(weights.LowRank(FactorFormat::kBFloat16, 16));
    WarpState merged{terms.warp, {}, {}};
    weights.Switch(nullptr, &merged);
    EXPECT_LT(static_cast<double>(weights.summary().log_bytes),
              0.05 * static_cast<double>(weights.base().size()));
  }
}

TEST(WarpTileTest, ATileWhoseLogDoesNotFitIsAsItWas) {
  WarpCase weights(WeightDtype::kFloat16, 96, 128, 0.1);
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kFloat16, 8));
  WarpState whole{terms.warp, {}, {}};
  weights.Switch(nullptr, &whole);
  const std::vector<uint8_t> merged = weights.weights();
  const uint64_t bytes = weights.summary().log_bytes;
  weights.Switch(&whole, nullptr);

  WarpState part{terms.warp, {}, {}};
  const SwitchParameter parameter = weights.Parameter(nullptr, &part);
  std::vector<TileState> states = weights.Run(parameter, bytes / 2);
  EXPECT_EQ(weights.summary().log_bytes, bytes);
  EXPECT_GE(weights.summary().missing_bytes, bytes / 2);
  const std::vector<uint8_t> now = weights.weights();
  int without_room = 0;
  for (int64_t i = 0; i < weights.grid().num_tiles(); ++i) {
    const TileRange tile = weights.grid().tile(i);
    const bool done = states[static_cast<size_t>(i)] == TileState::kDone;
    if (!done) {
      EXPECT_EQ(states[static_cast<size_t>(i)], TileState::kNoRoom);
      ++without_room;
    }
    const std::vector<uint8_t>& expected = done ? merged : weights.base();
    for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
      const auto at =
          static_cast<size_t>(row * weights.grid().cols() + tile.col) * 2;
      EXPECT_EQ(std::memcmp(now.data() + at, expected.data() + at,
                            static_cast<size_t>(tile.cols) * 2),
                0);
    }
  }
  EXPECT_GT(without_room, 0);
  EXPECT_LT(without_room, static_cast<int>(states.size()));

  weights.RunAgain(parameter, bytes / 2, states);
  EXPECT_EQ(states,
            std::vector<TileState>(weights.num_tiles(), TileState::kDone));
  EXPECT_EQ(weights.weights(), merged);
  weights.Switch(&part, nullptr);
  EXPECT_EQ(weights.weights(), weights.base());
}

// Of a bit, of two signs in one lane, of two rows or columns that change
// places, whichever they are.
TEST(WarpTileTest, ChecksumsSeeEveryChange) {
  for (const WeightDtype dtype : kDtypes) {
    WarpCase weights(dtype, kWarpTileRows, kWarpTileCols, 0.1);
    weights.FillNormal();
    const std::vector<uint64_t> whole = weights.Checksums();
    const size_t size = WeightDtypeSize(dtype);
    const size_t bytes = weights.base().size();
    for (size_t bit = 0; bit < bytes * 8; bit += 5) {
      weights.live()[bit / 8] ^= 1u << bit % 8;
      ASSERT_NE(weights.Checksums(), whole) << bit;
      weights.live()[bit / 8] ^= 1u << bit % 8;
    }
    for (size_t second = 2 * size - 1; second < bytes; second += size) {
      weights.live()[size - 1] ^= 0x80;
      weights.live()[second] ^= 0x80;
      ASSERT_NE(weights.Checksums(), whole) << second;
      weights.live()[size - 1] ^= 0x80;
      weights.live()[second] ^= 0x80;
    }
    const size_t row = kWarpTileCols * size;
    for (size_t other = 1; other < kWarpTileRows; ++other) {
      std::swap_ranges(weights.live(), weights.live() + row,
                       weights.live() + other * row);
      ASSERT_NE(weights.Checksums(), whole) << other;
      std::swap_ranges(weights.live(), weights.live() + row,
                       weights.live() + other * row);
    }
    for (size_t other = 1; other < kWarpTileCols; ++other) {
      const auto swap = [&] {
        for (size_t i = 0; i < kWarpTileRows; ++i) {
          uint8_t* const first = weights.live() + i * row;
          std::swap_ranges(first, first + size, first + other * size);
        }
      };
      swap();
      ASSERT_NE(weights.Checksums(), whole) << other;
      swap();
    }
    ASSERT_EQ(weights.Checksums(), whole);
  }
}

TEST(WarpTileTest, ATileThatDriftedIsAsItWas) {
  WarpCase weights(WeightDtype::kBFloat16, 64, 64, 0.1);
  std::vector<uint64_t> checksums = weights.Checksums();
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kBFloat16, 8));
  WarpState merged{terms.warp, {}, {}};
  weights.live()[100] ^= 4;
  const std::vector<uint8_t> before = weights.weights();
  SwitchParameter parameter = weights.Parameter(nullptr, &merged);
  parameter.checksums = checksums.data();
  const std::vector<TileState> states = weights.Run(parameter);
  EXPECT_EQ(states[0], TileState::kDrifted);
  EXPECT_EQ(states[1], TileState::kDone);
  EXPECT_EQ(weights.summary().num_drifted, 1u);
  const std::vector<uint8_t> after = weights.weights();
  EXPECT_TRUE(
      std::equal(before.begin(), before.begin() + 32 * 64 * 2, after.begin()));
}

// Memory changed the records of a log: nothing beyond the log is read, and the
// tile is as it was.
TEST(WarpTileTest, ARecordThatNoLogHasIsDrift) {
  WarpCase weights(WeightDtype::kFloat16, 64, 128, 0.1);
  std::vector<uint64_t> checksums = weights.Checksums();
  TwinTerms terms;
  terms.Add(weights.LowRank(FactorFormat::kFloat16, 8));
  WarpState state{terms.warp, {}, {}};
  weights.Switch(nullptr, &state);
  const std::vector<uint8_t> merged = weights.weights();
  state.records[0].num_codes = 1u << 30;
  state.records[1].offset = uint64_t{1} << 60;
  state.records[2].num_exceptions = 60000;
  state.records[3].offset += 8;  // not where logs begin
  SwitchParameter parameter = weights.Parameter(&state, nullptr);
  parameter.checksums = checksums.data();
  for (const TileState tile : weights.Run(parameter)) {
    EXPECT_EQ(tile, TileState::kDrifted);
  }
  EXPECT_EQ(weights.weights(), merged);
}

TEST(WarpTileTest, ExtractsAndCopies) {
  WarpCase weights(WeightDtype::kFloat16, 50, 72, 0.1);
  TwinTerms terms;
  terms.Add(weights.Hadamard(FactorFormat::kFloat16, 4));
  WarpState state{terms.warp, {}, {}};
  weights.Switch(nullptr, &state);
  const std::vector<uint8_t> merged = weights.weights();

  AlignedBytes w0(merged.size());
  SwitchParameter extract = weights.Parameter(&state, nullptr);
  extract.extract = w0.data();
  weights.Run(extract);
  EXPECT_EQ(weights.weights(), merged);
  EXPECT_EQ(std::memcmp(w0.data(), weights.base().data(), merged.size()), 0);

  // From a copy of W0, whatever is live.
  SwitchParameter copied = weights.Parameter(&state, nullptr);
  copied.old_records = nullptr;
  copied.pristine = w0.data();
  std::memset(weights.live(), 0x11, merged.size());
  weights.Run(copied);
  EXPECT_EQ(weights.weights(), weights.base());

  SwitchParameter ready = weights.Parameter(nullptr, nullptr);
  AlignedBytes aligned(merged.size());
  std::memcpy(aligned.data(), merged.data(), merged.size());
  ready.merged = aligned.data();
  weights.Run(ready);
  EXPECT_EQ(weights.weights(), merged);
}

// W0 of a lane's weights from what Encode says of them, whatever they and D
// are: any bits, NaN included, and D of any size beside them or nearly -W0.
template <class Weight>
void ExpectEveryLaneRestored() {
  using Codec = LaneCodec<Weight>;
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int n = 0; n < 200000; ++n) {
    typename Codec::Words w0 = {}, merged;
    LaneDelta d;
    d.c = n % 3 == 0 ? 1 : -0.3F;
    // Most alike, as all of a lane are coded anew where one is far.
    const auto common = static_cast<uint32_t>(random());
    for (int i = 0; i < kLaneElements; ++i) {
      const bool odd = random() % 8 == 0;
      const uint32_t bits = odd ? static_cast<uint32_t>(random())
                                : common ^ static_cast<uint32_t>(random() % 64);
      Codec::Set(i, static_cast<typename Weight::Bits>(bits), w0);
      const float value =
          Weight::Widen(static_cast<typename Weight::Bits>(Codec::Get(w0, i)));
      const float sizes[] = {0.01F, 0.3F, -1, 1, 3, 1e4F};
      const float size = sizes[random() % 6];
      d.p[i] = (n % 5 == 4 ? normal(random)
                : size < 0 ? -value * (1 + 0.01F * normal(random))
                           : value * size * normal(random)) /
               d.c;
    }
    Codec::Add(w0, d, merged);
    const uint32_t valid = n % 2 == 0 ? ~0u : static_cast<uint32_t>(random());
    std::vector<std::pair<int, uint32_t>> exceptions;
    const LaneCodes codes = Codec::Encode(
        w0, d, merged, valid,
        [&](int i, uint32_t bits) { exceptions.emplace_back(i, bits); });
    typename Codec::Words back = merged;
    const uint32_t candidates = Codec::Subtract(d, back) & valid;
    ASSERT_EQ(BitCount(candidates), codes.count);
    Codec::ApplyCodes(candidates, codes.bits, back);
    for (const auto& [i, bits] : exceptions) Codec::Set(i, bits, back);
    for (int i = 0; i < kLaneElements; ++i) {
      if ((valid & Codec::Mask(i)) == 0) continue;
      ASSERT_EQ(Codec::Get(back, i), Codec::Get(w0, i))
          << "lane " << n << " element " << i;
    }
  }
}

TEST(LaneCodecTest, SaysEveryBit) {
  ExpectEveryLaneRestored<Float32Weight>();
  ExpectEveryLaneRestored<BFloat16Weight>();
  ExpectEveryLaneRestored<Float16Weight>();
}

}  // namespace
}  // namespace graft

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/engine/weights/kernels/packed_factors.h"
#include "server/engine/weights/kernels/switch_tile.h"
#include "server/engine/weights/kernels/undo_codec.h"
#include "server/engine/weights/kernels/weight_bits.h"
#include "tests/engine/weight_rounding.h"

namespace graft {
namespace {

constexpr FactorFormat kFormats[] = {
    FactorFormat::kFloat32, FactorFormat::kBFloat16, FactorFormat::kFloat16};

// A parameter with a random W0 and two random changes of it.
class SwitchCase {
 public:
  SwitchCase(WeightDtype dtype, int64_t rows, int64_t cols, double norm,
             uint32_t seed)
      : dtype_(dtype), grid_(rows, cols), norm_(norm), random_(seed) {
    const size_t size = WeightDtypeSize(dtype);
    live_ = AlignedBytes(static_cast<size_t>(rows * cols) * size);
    for (int64_t i = 0; i < rows * cols; ++i) {
      // Magnitudes from denormal to large, and both zeros.
      float value = normal_(random_);
      if (i % 97 == 0) value = i % 2 == 0 ? 0.0F : -0.0F;
      if (i % 89 == 0) value = std::ldexp(value, -140);
      if (i % 83 == 0) value = std::ldexp(value, -20);
      const uint32_t bits = RoundTo(dtype, value);
      std::memcpy(live_.data() + static_cast<size_t>(i) * size, &bits, size);
    }
    base_ = Snapshot();
  }

  std::vector<uint8_t> Snapshot() const {
    return {live_.data(), live_.data() + live_.size()};
  }
  const std::vector<uint8_t>& base() const { return base_; }
  const TileGrid& grid() const { return grid_; }
  WeightDtype dtype() const { return dtype_; }
  void* live() const { return live_.data(); }

  // A term of `kind` whose D has `norm` times the size of W0.
  DeltaTerm Term(DeltaTerm::Kind kind, FactorFormat format, int rank,
                 FactorFormat bfloat16_format) {
    DeltaTerm term;
    term.kind = kind;
    term.coefficient = static_cast<float>(norm_ / std::sqrt(rank));
    switch (kind) {
      case DeltaTerm::Kind::kLowRank:
        term.first = Product(format, rank, bfloat16_format);
        break;
      case DeltaTerm::Kind::kHadamard:
        term.first = Product(format, rank, bfloat16_format);
        term.second = Product(format, rank, bfloat16_format);
        term.coefficient = static_cast<float>(norm_ / rank);
        break;
      case DeltaTerm::Kind::kKronecker:
        term.w2_rows = grid_.rows() % 2 == 0 ? grid_.rows() / 2 : grid_.rows();
        term.w2_cols = grid_.cols() % 3 == 0 ? grid_.cols() / 3 : grid_.cols();
        term.w1 =
            Floats(grid_.rows() / term.w2_rows * grid_.cols() / term.w2_cols);
        term.w2 = Floats(term.w2_rows * term.w2_cols);
        term.coefficient = static_cast<float>(norm_);
        break;
      case DeltaTerm::Kind::kDense:
        term.dense = Elements(format, grid_.rows() * grid_.cols());
        term.dense_format = format;
        term.coefficient = static_cast<float>(norm_);
        break;
    }
    return term;
  }

 private:
  const float* Floats(int64_t count) {
    return static_cast<const float*>(Elements(FactorFormat::kFloat32, count));
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

  LowRankFactors Product(FactorFormat format, int rank,
                         FactorFormat bfloat16_format) {
    const void* const up = Elements(format, grid_.rows() * rank);
    const void* const down = Elements(format, rank * grid_.cols());
    packed_.push_back(std::make_unique<PackedFactors>(
        MatrixView{format, up, grid_.rows(), rank},
        MatrixView{format, down, rank, grid_.cols()}, bfloat16_format));
    return packed_.back()->factors();
  }

  const WeightDtype dtype_;
  const TileGrid grid_;
  const double norm_;
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
  AlignedBytes live_;
  std::vector<uint8_t> base_;
  std::list<AlignedBytes> memory_;
  std::vector<std::unique_ptr<PackedFactors>> packed_;
};

// The logs of one state of a SwitchCase, one per tile.
struct Logs {
  std::vector<TileRecord> records;
  std::vector<uint8_t> memory;
};

// Switches all tiles; returns the checksums of W0 and leaves the logs.
std::vector<uint64_t> Switch(const SwitchKernels& kernels, SwitchCase& weights,
                             DeltaTerms old_terms, const Logs* old_logs,
                             DeltaTerms new_terms, Logs* new_logs) {
  TileScratch scratch(64, 8);
  std::vector<uint64_t> checksums;
  for (int64_t i = 0; i < weights.grid().num_tiles(); ++i) {
    TileJob job;
    job.live = weights.live();
    job.cols = weights.grid().cols();
    job.range = weights.grid().tile(i);
    job.old_terms = old_terms;
    if (old_logs != nullptr) {
      job.old_log = ReadRecord(old_logs->records[static_cast<size_t>(i)],
                               old_logs->memory, job.range, weights.dtype());
    }
    job.new_terms = new_terms;
    job.keep_log = new_logs != nullptr;
    checksums.push_back(kernels.For(weights.dtype())(job, scratch));
    if (new_logs == nullptr) continue;
    TileRecord record;
    record.kind = TileRecord::Kind::kLog;
    record.offset = new_logs->memory.size();
    record.num_codes = scratch.num_codes;
    record.num_exceptions = static_cast<uint16_t>(scratch.num_exceptions);
    new_logs->memory.resize(record.offset +
                            PackedLogBytes(scratch, weights.dtype()));
    PackLog(scratch, weights.dtype(), new_logs->memory.data() + record.offset);
    new_logs->records.push_back(record);
  }
  return checksums;
}

class SwitchKernelsTest
    : public ::testing::TestWithParam<const SwitchKernels*> {};

INSTANTIATE_TEST_SUITE_P(InstructionSets, SwitchKernelsTest,
                         ::testing::ValuesIn(RunnableSwitchKernels()),
                         [](const auto& info) {
                           return std::string(info.param->name);
                         });

// Sizes with whole blocks, with edges of every sort, and with several tiles.
struct Size {
  int64_t rows;
  int64_t cols;
};
constexpr Size kSizes[] = {{8, 32}, {1, 1},   {1, 70},    {3, 31},
                           {9, 33}, {40, 36}, {129, 288}, {16, 5000}};

// A record that memory has changed: the checksum is another, and nothing else
// happens.
TEST_P(SwitchKernelsTest, ALostRecordIsSeenByTheChecksum) {
  const SwitchKernels& kernels = *GetParam();
  for (const WeightDtype dtype : kDtypes) {
    for (const Size& size : kSizes) {
      if (size.rows * size.cols < 100) continue;  // may need no log
      SwitchCase weights(dtype, size.rows, size.cols, 0.1, 1);
      const std::vector<DeltaTerm> terms = {
          weights.Term(DeltaTerm::Kind::kLowRank, FactorFormat::kFloat32, 4,
                       kernels.bfloat16_format)};
      Logs logs;
      const std::vector<uint64_t> intact =
          Switch(kernels, weights, {}, nullptr, terms, &logs);
      for (TileRecord& record : logs.records) {
        record.kind = TileRecord::Kind::kNone;
      }
      EXPECT_NE(Switch(kernels, weights, terms, &logs, {}, nullptr), intact);
    }
  }
}

// Promise 1 in the small: from the base to a set, to another, and back.
TEST_P(SwitchKernelsTest, RestoresEveryBit) {
  const SwitchKernels& kernels = *GetParam();
  uint32_t seed = 0;
  for (const WeightDtype dtype : kDtypes) {
    for (const Size& size : kSizes) {
      for (const double norm : {0.003, 0.1, 3.0, 1e4}) {
        SwitchCase weights(dtype, size.rows, size.cols, norm, ++seed);
        std::vector<DeltaTerm> first, second;
        int rank = static_cast<int>(seed % 50);
        for (const FactorFormat format : kFormats) {
          first.push_back(weights.Term(DeltaTerm::Kind::kLowRank, format,
                                       ++rank, kernels.bfloat16_format));
        }
        second.push_back(weights.Term(DeltaTerm::Kind::kHadamard,
                                      FactorFormat::kFloat32, 3,
                                      FactorFormat::kBFloat16));
        second.push_back(weights.Term(DeltaTerm::Kind::kKronecker,
                                      FactorFormat::kFloat32, 1,
                                      FactorFormat::kBFloat16));
        second.push_back(weights.Term(DeltaTerm::Kind::kDense,
                                      FactorFormat::kFloat16, 1,
                                      FactorFormat::kBFloat16));
        const auto what = ::testing::Message()
                          << "dtype " << static_cast<int>(dtype) << " "
                          << size.rows << "x" << size.cols << " norm " << norm;

        Logs first_logs, second_logs, again_logs;
        const auto base_sums =
            Switch(kernels, weights, {}, nullptr, first, &first_logs);
        const std::vector<uint8_t> merged = weights.Snapshot();
        EXPECT_EQ(
            Switch(kernels, weights, first, &first_logs, second, &second_logs),
            base_sums)
            << what;
        EXPECT_EQ(
            Switch(kernels, weights, second, &second_logs, first, &again_logs),
            base_sums)
            << what;
        EXPECT_EQ(weights.Snapshot(), merged) << what;
        EXPECT_EQ(again_logs.memory, first_logs.memory) << what;
        Switch(kernels, weights, first, &again_logs, {}, nullptr);
        ASSERT_EQ(weights.Snapshot(), weights.base()) << what;
      }
    }
  }
}

// All instruction sets give the bits of the portable code, where products are
// not made of bfloat16 pairs.
TEST_P(SwitchKernelsTest, SameBitsAsPortable) {
  const SwitchKernels& kernels = *GetParam();
  const SwitchKernels& portable = *RunnableSwitchKernels().front();
  for (const WeightDtype dtype : kDtypes) {
    for (const FactorFormat format : kFormats) {
      SwitchCase weights(dtype, 43, 77, 0.1, 5);
      SwitchCase expected(dtype, 43, 77, 0.1, 5);
      const std::vector<DeltaTerm> terms = {
          weights.Term(DeltaTerm::Kind::kLowRank, format, 5,
                       FactorFormat::kBFloat16),
          weights.Term(DeltaTerm::Kind::kHadamard, format, 2,
                       FactorFormat::kBFloat16),
          weights.Term(DeltaTerm::Kind::kDense, format, 2,
                       FactorFormat::kBFloat16)};
      Logs logs, expected_logs;
      EXPECT_EQ(Switch(kernels, weights, {}, nullptr, terms, &logs),
                Switch(portable, expected, {}, nullptr, terms, &expected_logs));
      EXPECT_EQ(weights.Snapshot(), expected.Snapshot());
      EXPECT_EQ(logs.memory, expected_logs.memory);
    }
  }
}

TEST_P(SwitchKernelsTest, RestoresWhatIsNotFinite) {
  const SwitchKernels& kernels = *GetParam();
  for (const WeightDtype dtype : kDtypes) {
    SwitchCase weights(dtype, 8, 64, 1, 3);
    const size_t size = WeightDtypeSize(dtype);
    const float specials[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(), 65504,
                              std::numeric_limits<float>::max()};
    for (size_t i = 0; i < std::size(specials); ++i) {
      const uint32_t bits = RoundTo(dtype, specials[i]);
      std::memcpy(static_cast<uint8_t*>(weights.live()) + i * 7 * size, &bits,
                  size);
    }
    const std::vector<uint8_t> base = weights.Snapshot();
    const std::vector<DeltaTerm> terms = {
        weights.Term(DeltaTerm::Kind::kDense, FactorFormat::kFloat32, 1,
                     FactorFormat::kBFloat16)};
    Logs logs;
    Switch(kernels, weights, {}, nullptr, terms, &logs);
    Switch(kernels, weights, terms, &logs, {}, nullptr);
    EXPECT_EQ(weights.Snapshot(), base);
  }
}

// Memory changed a record of a log: nothing beyond the log is read.
TEST(ReadRecordTest, TakesWhatNoLogHasForAnEmptyOne) {
  const std::vector<uint8_t> memory(64);
  const TileRange tile{0, 0, 8, 32};
  const auto read = [&](TileRecord::Kind kind, uint64_t offset,
                        uint32_t num_codes, uint16_t num_exceptions) {
    TileRecord record;
    record.kind = kind;
    record.offset = offset;
    record.num_codes = num_codes;
    record.num_exceptions = num_exceptions;
    return ReadRecord(record, memory, tile, WeightDtype::kFloat16);
  };
  const auto kLog = TileRecord::Kind::kLog, kRaw = TileRecord::Kind::kRaw;
  const TileLog whole = read(kLog, 16, 16, 10);
  EXPECT_EQ(whole.num_codes, 16u);
  EXPECT_EQ(whole.num_exceptions, 10u);
  EXPECT_EQ(whole.codes, memory.data() + 16);
  for (const TileLog& log : {read(kLog, 17, 16, 10), read(kLog, 0, 1u << 20, 0),
                             read(kLog, UINT64_MAX - 3, 4, 0),
                             read(kLog, 0, 0, 17), read(kRaw, 0, 0, 0)}) {
    EXPECT_EQ(log.kind, kLog);
    EXPECT_EQ(log.num_codes, 0u);
    EXPECT_EQ(log.num_exceptions, 0u);
  }
  EXPECT_EQ(read(TileRecord::Kind::kNone, 99, 9, 9).kind,
            TileRecord::Kind::kNone);
}

TEST_P(SwitchKernelsTest, ChecksumTellsOneFlippedBit) {
  const SwitchKernels& kernels = *GetParam();
  SwitchCase weights(WeightDtype::kBFloat16, 24, 96, 0.1, 1);
  const auto sums = Switch(kernels, weights, {}, nullptr, {}, nullptr);
  auto* const bytes = static_cast<uint8_t*>(weights.live());
  for (const size_t at : {0, 1, 77, 24 * 96 * 2 - 1}) {
    bytes[at] ^= 4;
    EXPECT_NE(Switch(kernels, weights, {}, nullptr, {}, nullptr), sums) << at;
    bytes[at] ^= 4;
  }
  // Two that change places.
  std::swap_ranges(bytes, bytes + 2, bytes + 64);
  EXPECT_NE(Switch(kernels, weights, {}, nullptr, {}, nullptr), sums);
}

// D as the definition gives it, in double.
TEST_P(SwitchKernelsTest, FillDeltaIsTheSumOfTerms) {
  const SwitchKernels& kernels = *GetParam();
  constexpr int kRows = 12, kCols = 45, kRank = 6;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> up(kRows * kRank), down(kRank * kCols);
  for (float& value : up) value = normal(random);
  for (float& value : down) value = normal(random);
  const PackedFactors packed(
      {FactorFormat::kFloat32, up.data(), kRows, kRank},
      {FactorFormat::kFloat32, down.data(), kRank, kCols},
      kernels.bfloat16_format);
  DeltaTerm product, square;
  product.first = square.first = square.second = packed.factors();
  square.kind = DeltaTerm::Kind::kHadamard;
  product.coefficient = 0.5F;
  square.coefficient = -2;
  const std::vector<DeltaTerm> terms = {product, square};
  std::vector<float> delta(kRows * kCols);
  TileScratch scratch(kRank, 2);
  kernels.fill_delta(terms, {0, 0, kRows, kCols}, kCols, delta.data(), kCols,
                     scratch);
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kCols; ++j) {
      double p = 0;
      for (int k = 0; k < kRank; ++k) {
        p += double{up[i * kRank + k]} * down[k * kCols + j];
      }
      const double expected = 0.5 * p - 2 * p * p;
      EXPECT_NEAR(delta[i * kCols + j], expected,
                  1e-5 + 1e-6 * std::abs(expected));
    }
  }
}

// Whole tiles, halves, padding and pairs, where the processor has them.
TEST_P(SwitchKernelsTest, BFloat16ProductsOfEveryRank) {
  const SwitchKernels& kernels = *GetParam();
  constexpr int kRows = 19, kCols = 75;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  TileScratch scratch(80, 1);
  for (const int rank : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 77}) {
    std::vector<uint16_t> up(kRows * rank), down(rank * kCols);
    for (uint16_t& value : up) value = BFloat16Weight::Round(normal(random));
    for (uint16_t& value : down) value = BFloat16Weight::Round(normal(random));
    const PackedFactors packed(
        {FactorFormat::kBFloat16, up.data(), kRows, rank},
        {FactorFormat::kBFloat16, down.data(), rank, kCols},
        kernels.bfloat16_format);
    DeltaTerm product;
    product.first = packed.factors();
    product.coefficient = 0.5F;
    std::vector<float> delta(kRows * kCols);
    kernels.fill_delta({&product, 1}, {0, 0, kRows, kCols}, kCols, delta.data(),
                       kCols, scratch);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kCols; ++j) {
        double expected = 0;
        for (int k = 0; k < rank; ++k) {
          expected += 0.5 * BFloat16Weight::Widen(up[i * rank + k]) *
                      BFloat16Weight::Widen(down[k * kCols + j]);
        }
        ASSERT_NEAR(delta[i * kCols + j], expected, 1e-5)
            << "rank " << rank << " at " << i << ", " << j;
      }
    }
  }
}

// The product of a single adapter takes a path of its own in the pass.
TEST_P(SwitchKernelsTest, MergesWhatFillDeltaSays) {
  const SwitchKernels& kernels = *GetParam();
  constexpr int kRows = 43, kCols = 365;  // eleven blocks and an edge
  TileScratch scratch(64, 1);
  for (const FactorFormat format : kFormats) {
    for (const int rank : {1, 16, 20, 33}) {
      SwitchCase weights(WeightDtype::kFloat32, kRows, kCols, 0.1, 7);
      const DeltaTerm term = weights.Term(DeltaTerm::Kind::kLowRank, format,
                                          rank, kernels.bfloat16_format);
      std::vector<float> delta(kRows * kCols);
      kernels.fill_delta({&term, 1}, {0, 0, kRows, kCols}, kCols, delta.data(),
                         kCols, scratch);
      std::vector<float> expected(kRows * kCols);
      std::memcpy(expected.data(), weights.base().data(),
                  weights.base().size());
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += delta[i];
      Logs logs;
      Switch(kernels, weights, {}, nullptr, {&term, 1}, &logs);
      EXPECT_EQ(
          std::memcmp(weights.live(), expected.data(), weights.base().size()),
          0)
          << "format " << static_cast<int>(format) << " rank " << rank;
      Switch(kernels, weights, {&term, 1}, &logs, {}, nullptr);
      EXPECT_EQ(weights.Snapshot(), weights.base());
    }
  }
}

TEST(WeightBitsTest, SixteenBitTypesRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float bfloat = BFloat16Weight::Widen(half);
    if (!std::isnan(bfloat)) {
      EXPECT_EQ(BFloat16Weight::Round(bfloat), half);
    }
    const float wide = Float16Weight::Widen(half);
    if (std::isnan(wide)) continue;
    EXPECT_EQ(Float16Weight::Round(wide), half);
    // Halfway to the next one: to even.
    const float next = Float16Weight::Widen(static_cast<uint16_t>(half + 1));
    if (!std::isfinite(wide) || !std::isfinite(next)) continue;
    const float middle = (wide + next) / 2;
    EXPECT_EQ(Float16Weight::Round(middle) % 2, 0) << bits;
  }
  EXPECT_EQ(Float16Weight::Round(65519.9F), 0x7bff);
  EXPECT_EQ(Float16Weight::Round(65520.0F), 0x7c00);
}

TEST(TileGridTest, TilesCoverTheMatrixOnce) {
  for (const Size& size : {Size{1, 1}, Size{1, 9000}, Size{320, 320},
                           Size{1280, 11520}, Size{4, 36}, Size{10000, 7}}) {
    const TileGrid grid(size.rows, size.cols);
    int64_t covered = 0;
    for (int64_t i = 0; i < grid.num_tiles(); ++i) {
      const TileRange tile = grid.tile(i);
      EXPECT_EQ(tile.row % kBlockRows, 0);
      EXPECT_EQ(tile.col % kBlockCols, 0);
      EXPECT_LE(TileGrid::NumBlocks(tile) * kBlockSize, kMaxTileElements);
      covered += tile.rows * tile.cols;
    }
    EXPECT_EQ(covered, size.rows * size.cols);
  }
}

}  // namespace
}  // namespace graft

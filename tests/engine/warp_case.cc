#include "tests/engine/warp_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "server/engine/cuda/warp_factors.h"
#include "tests/engine/weight_rounding.h"

namespace graft {
namespace {

template <class T>
void SetBoth(TwinTerm& term, T DeltaTerm::*member, T value) {
  term.warp.*member = term.cpu.*member = value;
}

// Both read-only and writable buffers are of memory that the case may write.
LaunchBuffer Buffer(const char* name, const void* data, size_t size,
                    bool writable) {
  return {name, const_cast<void*>(data), size, writable};
}

}  // namespace

WarpCase::WarpCase(WarpRunner& runner, WeightDtype dtype, int64_t rows,
                   int64_t cols, double norm, uint32_t seed)
    : runner_(runner),
      dtype_(dtype),
      grid_(rows, cols, kWarpTileRows, kWarpTileCols),
      norm_(norm),
      random_(seed),
      live_(static_cast<size_t>(rows * cols) * WeightDtypeSize(dtype)) {
  Fill([this](int64_t i) {
    const float value = normal_(random_);
    if (i % 97 == 0) return i % 2 == 0 ? 0.0F : -0.0F;
    if (i % 89 == 0) return std::ldexp(value, -140);
    return i % 83 == 0 ? std::ldexp(value, -20) : value;
  });
}

void WarpCase::FillNormal() {
  Fill([this](int64_t) { return normal_(random_); });
}

void WarpCase::FillZero() {
  Fill([](int64_t) { return 0.0F; });
}

TwinTerm WarpCase::LowRank(FactorFormat format, int rank) {
  TwinTerm term;
  SetBoth(term, &DeltaTerm::coefficient,
          static_cast<float>(norm_ / std::sqrt(rank)));
  AddProduct(term, &DeltaTerm::first, format, rank);
  return term;
}

TwinTerm WarpCase::Hadamard(FactorFormat format, int rank) {
  TwinTerm term;
  SetBoth(term, &DeltaTerm::kind, DeltaTerm::Kind::kHadamard);
  SetBoth(term, &DeltaTerm::coefficient, static_cast<float>(norm_ / rank));
  AddProduct(term, &DeltaTerm::first, format, rank);
  AddProduct(term, &DeltaTerm::second, format, rank);
  return term;
}

TwinTerm WarpCase::Kronecker() {
  DeltaTerm term;
  term.kind = DeltaTerm::Kind::kKronecker;
  term.coefficient = static_cast<float>(norm_);
  term.w2_rows = grid_.rows() % 2 == 0 ? grid_.rows() / 2 : grid_.rows();
  term.w2_cols = grid_.cols() % 3 == 0 ? grid_.cols() / 3 : grid_.cols();
  const auto floats = [this](int64_t count) {
    return static_cast<const float*>(Elements(FactorFormat::kFloat32, count));
  };
  term.w1 = floats(grid_.rows() / term.w2_rows * (grid_.cols() / term.w2_cols));
  term.w2 = floats(term.w2_rows * term.w2_cols);
  return {term, term};
}

TwinTerm WarpCase::Dense(FactorFormat format) {
  DeltaTerm term;
  term.kind = DeltaTerm::Kind::kDense;
  term.coefficient = static_cast<float>(norm_);
  term.dense = Elements(format, grid_.rows() * grid_.cols());
  term.dense_format = format;
  return {term, term};
}

TwinTerms WarpCase::Products(int count) {
  constexpr int kRanks[] = {5, 33, 16};
  TwinTerms terms;
  for (int i = 0; i < count; ++i) {
    terms.Add(
        LowRank(i % 2 == 0 ? FactorFormat::kBFloat16 : FactorFormat::kFloat16,
                kRanks[i % 3]));
  }
  return terms;
}

TwinTerms WarpCase::AllKinds() {
  TwinTerms terms;
  terms.Add(LowRank(FactorFormat::kBFloat16, 5));
  terms.Add(LowRank(FactorFormat::kFloat16, 33));
  terms.Add(Hadamard(FactorFormat::kFloat16, 2));
  terms.Add(Kronecker());
  terms.Add(Dense(FactorFormat::kFloat32));
  terms.Add(Dense(FactorFormat::kBFloat16));
  return terms;
}

SwitchParameter WarpCase::Parameter(const WarpState* from, WarpState* to) {
  SwitchParameter parameter;
  parameter.rows = grid_.rows();
  parameter.cols = grid_.cols();
  parameter.dtype = dtype_;
  parameter.live = live_.data();
  table_.clear();
  launch_ = {};
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

std::vector<TileState> WarpCase::Run(const SwitchParameter& parameter,
                                     uint64_t capacity) {
  // In a first launch nobody looks at them.
  std::vector<TileState> states(num_tiles(), TileState::kSkip);
  SwitchLaunch launch = launch_;
  launch.new_log_capacity = std::min(capacity, launch.new_log_capacity);
  launch.all = true;
  summary_ = {};
  Launch(parameter, launch, states);
  return states;
}

void WarpCase::RunAgain(const SwitchParameter& parameter, uint64_t taken,
                        std::vector<TileState>& states) {
  SwitchLaunch launch = launch_;
  launch.pending = TileState::kNoRoom;
  summary_ = {};
  summary_.log_bytes = taken;
  Launch(parameter, launch, states);
}

void WarpCase::Switch(const WarpState* from, WarpState* to,
                      std::vector<uint64_t>* checksums) {
  SwitchParameter parameter = Parameter(from, to);
  if (checksums != nullptr) parameter.checksums = checksums->data();
  for (const TileState state : Run(parameter)) {
    ASSERT_EQ(state, TileState::kDone);
  }
}

std::vector<uint64_t> WarpCase::Checksums() {
  std::vector<uint64_t> sums(num_tiles());
  SwitchParameter parameter = Parameter(nullptr, nullptr);
  parameter.sums = sums.data();
  Run(parameter);
  return sums;
}

std::vector<float> WarpCase::SumTerms(std::vector<DeltaTerm> terms) {
  std::vector<float> delta(static_cast<size_t>(grid_.rows() * grid_.cols()));
  std::vector<LaunchBuffer> buffers = {
      Buffer("terms", terms.data(), terms.size() * sizeof(DeltaTerm), false),
      Buffer("delta", delta.data(), delta.size() * sizeof(float), true)};
  AddFactors(buffers);
  runner_.SumTerms(terms, grid_.rows(), grid_.cols(), delta.data(), buffers);
  return delta;
}

std::vector<uint8_t> WarpCase::MergeOnCpu(DeltaTerms terms) {
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

void WarpCase::Fill(const std::function<float(int64_t)>& value_of) {
  const size_t size = WeightDtypeSize(dtype_);
  for (int64_t i = 0; i < grid_.rows() * grid_.cols(); ++i) {
    const uint32_t bits = RoundTo(dtype_, value_of(i));
    std::memcpy(live_.data() + static_cast<size_t>(i) * size, &bits, size);
  }
  base_ = Bytes(live_);
}

void WarpCase::Launch(SwitchParameter parameter, SwitchLaunch& launch,
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

  const size_t tiles = num_tiles();
  const bool writes = parameter.extract == nullptr && parameter.sums == nullptr;
  std::vector<LaunchBuffer> buffers = {
      Buffer("parameters", &parameter, sizeof(parameter), false),
      Buffer("terms", table_.data(), table_.size() * sizeof(DeltaTerm), false),
      Buffer("states", states.data(), tiles, true),
      Buffer("summary", &summary_, sizeof(summary_), true),
      Buffer("rest", rest.data(), tiles * sizeof(uint32_t), true),
      Buffer("weights", parameter.live, live_.size(), writes),
      Buffer("pristine", parameter.pristine, live_.size(), false),
      Buffer("merged", parameter.merged, live_.size(), false),
      Buffer("extract", parameter.extract, live_.size(), true),
      Buffer("sums", parameter.sums, tiles * sizeof(uint64_t), true),
      Buffer("checksums", parameter.checksums, tiles * sizeof(uint64_t), false),
      Buffer("old records", parameter.old_records, tiles * sizeof(TileRecord),
             false),
      Buffer("old log", launch.old_log, launch.old_log_capacity, false),
      Buffer("records", parameter.new_records, tiles * sizeof(TileRecord),
             true),
      Buffer("log", launch.new_log, launch.new_log_capacity, true)};
  AddFactors(buffers);
  std::erase_if(buffers, [](const LaunchBuffer& buffer) {
    return buffer.data == nullptr;
  });
  runner_.Switch(launch, dtype_, buffers);
}

void WarpCase::AddFactors(std::vector<LaunchBuffer>& buffers) const {
  for (const AlignedBytes& bytes : memory_) {
    buffers.push_back(Buffer("factors", bytes.data(), bytes.size(), false));
  }
}

std::vector<uint8_t> WarpCase::Bytes(const AlignedBytes& bytes) {
  return {bytes.data(), bytes.data() + bytes.size()};
}

void WarpCase::AddProduct(TwinTerm& term, LowRankFactors DeltaTerm::*side,
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

const void* WarpCase::Keep(const std::vector<uint16_t>& elements) {
  AlignedBytes& bytes =
      memory_.emplace_back(elements.size() * sizeof(uint16_t));
  std::memcpy(bytes.data(), elements.data(), bytes.size());
  return bytes.data();
}

const void* WarpCase::Elements(FactorFormat format, int64_t count) {
  const size_t size = format == FactorFormat::kFloat32 ? 4 : 2;
  AlignedBytes& bytes = memory_.emplace_back(static_cast<size_t>(count) * size);
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

}  // namespace graft

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/cuda/switch_kernels_cuda.h"
#include "server/engine/cuda/warp_log.h"
#include "tests/engine/ptx/cuda_runtime.h"
#include "tests/engine/ptx/machine.h"
#include "tests/engine/ptx/module.h"
#include "tests/engine/warp_case.h"

// The cases of warp_tile_test.cc, launched by libgraft_cuda.so's own code and
// run as the PTX that nvcc makes of switch_kernels.cu. Each launch is made by
// HostWarp, too, and has to leave the same bits.

namespace graft {
namespace {

std::string ReadText(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

ptx::Machine LoadMachine(const char* path) {
  absl::StatusOr<ptx::Module> module = ptx::ParseModule(ReadText(path));
  EXPECT_TRUE(module.ok()) << path << ": " << module.status();
  return ptx::Machine(module.ok() ? *std::move(module) : ptx::Module(),
                      /*seed=*/1);
}

// The bytes of those that a launch may write.
using Contents = std::vector<std::vector<uint8_t>>;

Contents Save(absl::Span<const LaunchBuffer> buffers) {
  Contents contents;
  for (const LaunchBuffer& buffer : buffers) {
    const auto* const data = static_cast<const uint8_t*>(buffer.data);
    contents.emplace_back(data, data + (buffer.writable ? buffer.size : 0));
  }
  return contents;
}

void PutBack(const Contents& contents, absl::Span<const LaunchBuffer> buffers) {
  for (size_t i = 0; i < buffers.size(); ++i) {
    std::copy(contents[i].begin(), contents[i].end(),
              static_cast<uint8_t*>(buffers[i].data));
  }
}

// What differs between two runs and means nothing becomes the same: where the
// tiles' logs are, as they come in any order, and in them the order of
// exceptions; and the bytes behind those and in the records.
template <class Bits>
void Normalise(std::vector<uint8_t>& records, std::vector<uint8_t>& log) {
  std::vector<uint8_t> sorted;
  for (size_t at = 0; at < records.size(); at += sizeof(TileRecord)) {
    TileRecord record;
    std::memcpy(&record, &records[at], sizeof(record));
    constexpr size_t kEnd = offsetof(TileRecord, kind) + sizeof(record.kind);
    std::memset(&records[at + kEnd], 0, sizeof(record) - kEnd);
    if (record.kind == TileRecord::Kind::kNone) continue;
    std::memset(&records[at], 0, sizeof(record.offset));

    const bool raw = record.kind == TileRecord::Kind::kRaw;
    const size_t bytes =
        raw ? kWarpTileElements * sizeof(Bits)
            : LogBytes<Bits>(record.num_codes, record.num_exceptions);
    ASSERT_LE(record.offset + bytes, log.size());
    uint8_t* const from = log.data() + record.offset;
    if (!raw) {
      const size_t codes = CodeQuads(record.num_codes) * sizeof(Quad);
      auto* const exceptions =
          reinterpret_cast<LogException<Bits>*>(from + codes);
      auto* const end = exceptions + record.num_exceptions;
      std::sort(exceptions, end,
                [](const auto& a, const auto& b) { return a.place < b.place; });
      std::fill(reinterpret_cast<uint8_t*>(end), from + bytes, 0);
    }
    sorted.insert(sorted.end(), from, from + bytes);
    std::memset(from, 0, bytes);
  }
  log.insert(log.end(), sorted.begin(), sorted.end());
}

void Normalise(WeightDtype dtype, absl::Span<const LaunchBuffer> buffers,
               Contents& contents) {
  std::vector<uint8_t>*records = nullptr, *log = nullptr;
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i].name == std::string("records")) records = &contents[i];
    if (buffers[i].name == std::string("log")) log = &contents[i];
  }
  if (records == nullptr) return;
  if (dtype == WeightDtype::kFloat32) {
    Normalise<uint32_t>(*records, *log);
  } else {
    Normalise<uint16_t>(*records, *log);
  }
}

// NaN have the bits that hardware gives them, and all that follows from those.
bool HasNan(WeightDtype dtype, const LaunchBuffer& weights) {
  const size_t size = WeightDtypeSize(dtype);
  for (size_t at = 0; at < weights.size; at += size) {
    uint32_t bits = 0;
    std::memcpy(&bits, static_cast<const uint8_t*>(weights.data) + at, size);
    const float value = dtype == WeightDtype::kFloat32 ? FloatFromBits(bits)
                        : dtype == WeightDtype::kFloat16
                            ? Float16Weight::Widen(static_cast<uint16_t>(bits))
                            : BFloat16Weight::WidenLow(bits);
    if (std::isnan(value)) return true;
  }
  return false;
}

class PtxRunner : public WarpRunner {
 public:
  explicit PtxRunner(const char* path) : machine_(LoadMachine(path)) {}

  void Switch(const SwitchLaunch& launch, WeightDtype dtype,
              absl::Span<const LaunchBuffer> buffers) override {
    const bool has_nan =
        std::any_of(buffers.begin(), buffers.end(), [&](const auto& buffer) {
          return buffer.name == std::string("weights") && HasNan(dtype, buffer);
        });
    RunBoth(
        [&] {
          host_.Switch(launch, dtype, buffers);
          return !has_nan && !DependsOnOrder(launch);
        },
        [&] { return GraftCudaSwitch(0, nullptr, &launch, dtype); }, dtype,
        buffers);
  }

  void SumTerms(absl::Span<const DeltaTerm> terms, int64_t rows, int64_t cols,
                float* delta, absl::Span<const LaunchBuffer> buffers) override {
    RunBoth(
        [&] {
          host_.SumTerms(terms, rows, cols, delta, buffers);
          return true;
        },
        [&] {
          return GraftCudaSumTerms(0, nullptr, terms.data(),
                                   static_cast<uint32_t>(terms.size()), rows,
                                   cols, delta);
        },
        WeightDtype::kFloat32, buffers);
  }

 private:
  // Which of its tiles find room, where not all do: the general kernel's warps
  // take those that are left in another order.
  static bool DependsOnOrder(const SwitchLaunch& launch) {
    return launch.rest != nullptr && launch.summary->num_rest > 0 &&
           launch.summary->missing_bytes > 0;
  }

  // `host` returns whether `cuda` has to leave the same.
  template <class Host, class Cuda>
  void RunBoth(Host&& host, Cuda&& cuda, WeightDtype dtype,
               absl::Span<const LaunchBuffer> buffers) {
    const Contents before = Save(buffers);
    const bool comparable = host();
    const Contents expected = Save(buffers);
    PutBack(before, buffers);
    if (!Launch(cuda, buffers)) {
      PutBack(expected, buffers);
    } else if (comparable) {
      Compare(dtype, buffers, expected);
    }
  }

  template <class F>
  bool Launch(F&& launch, absl::Span<const LaunchBuffer> buffers) {
    std::vector<ptx::GlobalMemory::Buffer> memory;
    for (const LaunchBuffer& buffer : buffers) {
      memory.push_back({reinterpret_cast<uintptr_t>(buffer.data), buffer.size,
                        buffer.writable});
    }
    ptx::GlobalMemory global(std::move(memory));
    const ptx::ScopedDevice device(machine_, global);
    const int error = launch();
    EXPECT_TRUE(error == 0 && device.status().ok())
        << "CUDA error " << error << ", " << device.status();
    return error == 0 && device.status().ok();
  }

  static void Compare(WeightDtype dtype, absl::Span<const LaunchBuffer> buffers,
                      Contents expected) {
    Contents now = Save(buffers);
    Normalise(dtype, buffers, expected);
    Normalise(dtype, buffers, now);
    for (size_t i = 0; i < buffers.size(); ++i) {
      const auto differs =
          std::mismatch(now[i].begin(), now[i].end(), expected[i].begin());
      EXPECT_TRUE(differs.first == now[i].end())
          << buffers[i].name << " of dtype " << static_cast<int>(dtype)
          << " from byte " << differs.first - now[i].begin() << " on";
    }
  }

  HostRunner host_;
  ptx::Machine machine_;
};

template <int kArchitecture>
WarpRunner& Ptx() {
  static PtxRunner runner(kArchitecture == 80 ? GRAFT_PTX_80 : GRAFT_PTX_90);
  return runner;
}

// All that are made other code for than the one before.
std::vector<WarpRunner& (*)()> Runners() {
  std::string texts[] = {ReadText(GRAFT_PTX_80), ReadText(GRAFT_PTX_90)};
  for (std::string& text : texts) {
    const size_t target = text.find(".target");
    if (target != std::string::npos) {
      text.erase(target, text.find('\n', target) - target);
    }
  }
  if (texts[0] == texts[1]) return {&Ptx<80>};
  return {&Ptx<80>, &Ptx<90>};
}

INSTANTIATE_TEST_SUITE_P(Ptx, WarpTileTest, ::testing::ValuesIn(Runners()));

}  // namespace
}  // namespace graft

// The weights of an engine with a long history, against those of a process that
// was started for one adapter set alone.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/engine/torch_engine.h"
#include "server/weight_export.h"
#include "tests/integration/daemon_process.h"
#include "tests/testing/random_adapter_file.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string ToText(const std::vector<ExportedAdapter>& set) {
  return absl::StrJoin(set, ",",
                       [](std::string* out, const ExportedAdapter& adapter) {
                         absl::StrAppend(out, adapter.name, "=", adapter.weight,
                                         ":", adapter.text_encoder_weight);
                       });
}

class FreshProcessTest
    : public testing::TestWithParam<std::tuple<ComputeDtype, const char*>> {};

INSTANTIATE_TEST_SUITE_P(
    Dtypes, FreshProcessTest,
    testing::Values(std::make_tuple(ComputeDtype::kFloat32, "float32"),
                    std::make_tuple(ComputeDtype::kBFloat16, "bfloat16"),
                    std::make_tuple(ComputeDtype::kFloat16, "float16")),
    [](const auto& info) { return std::string(std::get<1>(info.param)); });

TEST_P(FreshProcessTest, HasTheWeightsOfAnEngineThatSwitchedManyTimes) {
  const TempDir model, adapters, exports;
  WriteTinyModel(model.path(), {});
  DaemonOptions options;
  options.adapter_dir = adapters.path();
  options.engine.model_dir = model.path();
  options.engine.device = "cpu";
  options.engine.dtype = std::get<0>(GetParam());
  auto engine = CreateTorchEngine(options.engine);
  ASSERT_THAT(engine.status(), IsOk());

  std::vector<std::string> names;
  for (const RandomAdapterKind kind : kAllRandomAdapterKinds) {
    names.emplace_back(RandomAdapterKindName(kind));
    std::ofstream(adapters.File(names.back() + ".safetensors"),
                  std::ios::binary)
        << RandomAdapterFile(kind, (*engine)->modules().modules, /*rank=*/4,
                             /*seed=*/names.size());
  }

  std::mt19937 random(11);
  constexpr int kSwitches = 60;
  constexpr int kSample = 20;
  for (int n = 1; n <= kSwitches; ++n) {
    std::vector<ExportedAdapter> set;
    const size_t first = random() % names.size();
    const size_t members = random() % 4;
    for (size_t i = 0; i < members; ++i) {
      const double weight = static_cast<double>(random() % 33) / 8 - 2;
      set.push_back({names[(first + 5 * i) % names.size()], weight, -weight});
    }
    SCOPED_TRACE(ToText(set));
    const std::string here = exports.File("here.safetensors");
    ASSERT_THAT(ExportMergedWeights(set, here, options, **engine), IsOk());
    if (n % kSample != 0) continue;
    const std::string there = exports.File("there.safetensors");
    DaemonProcess fresh({absl::StrCat("--model=", model.path()),
                         absl::StrCat("--adapter_dir=", adapters.path()),
                         "--device=cpu",
                         absl::StrCat("--dtype=", std::get<1>(GetParam())),
                         absl::StrCat("--export=", ToText(set)),
                         absl::StrCat("--export_to=", there)});
    ASSERT_EQ(fresh.Wait(), 0) << fresh.log();
    EXPECT_EQ(ReadFile(here), ReadFile(there));
  }
}

}  // namespace
}  // namespace graft

#include "tests/fuzz/adapter_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "server/adapters/tensor_values.h"
#include "server/common/error.h"
#include "server/common/utf8.h"
#include "tests/adapters/sd15_modules.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/fuzz/safetensors_file.h"
#include "tests/testing/fake_engine.h"

namespace graft {
namespace {

using Shape = std::vector<int64_t>;

struct Base {
  const ModuleTable* table;
  std::unique_ptr<AdapterParser> parser;
  std::map<std::string, const ModuleInfo*> modules;
};

// One for each table, made once.
const Base& BaseOf(const ModuleTable& table) {
  static auto* const bases = new std::vector<std::unique_ptr<Base>>();
  for (const auto& base : *bases) {
    if (base->table == &table) return *base;
  }
  auto base = std::make_unique<Base>();
  base->table = &table;
  auto parser = AdapterParser::Create(&table);
  GRAFT_FUZZ_CHECK(parser.ok());
  base->parser = *std::move(parser);
  for (const ModuleInfo& module : table.modules) {
    base->modules[module.name] = &module;
  }
  bases->push_back(std::move(base));
  return *bases->back();
}

void CheckError(const absl::Status& status) {
  const auto reason = GetErrorReason(status);
  GRAFT_FUZZ_CHECK(reason == ErrorReason::kAdapterCorrupt ||
                   reason == ErrorReason::kAdapterKeysUnmatched ||
                   reason == ErrorReason::kAdapterBaseMismatch ||
                   reason == ErrorReason::kAdapterKindUnsupported ||
                   reason == ErrorReason::kAdapterNonFinite);
  GRAFT_FUZZ_CHECK(IsValidUtf8(status.message()));
  GRAFT_FUZZ_CHECK(EscapeUntrusted(status.message(), 8192) == status.message());
}

int64_t Product(const Shape& shape, size_t begin = 0) {
  return std::accumulate(shape.begin() + static_cast<std::ptrdiff_t>(begin),
                         shape.end(), int64_t{1}, std::multiplies<>());
}

// W as the algorithms see it, and the sizes that adapter_weights.h speaks of.
struct Sizes {
  Sizes(const AdapterTarget& target, const ModuleInfo& module) {
    w = target.parameter == ParameterKind::kBias ? Shape{module.weight_shape[0]}
                                                 : module.weight_shape;
    if (w.size() == 4 && w[2] == 1 && w[3] == 1) w.resize(2);
    o = w[0];
    i = w.size() > 1 ? w[1] : 1;
    row = Product(w, 1);
    r = target.rank;
  }

  // [first, second], with the kernel of W where it has one.
  Shape WithKernel(int64_t first, int64_t second) const {
    Shape shape = {first, second};
    shape.insert(shape.end(), w.begin() + 2, w.end());
    return shape;
  }

  Shape w;
  int64_t o;
  int64_t i;
  int64_t row;
  int64_t r;
};

const Shape& ShapeOf(const AdapterTarget& target, FactorRole role) {
  const AdapterFactor* const factor = target.Find(role);
  GRAFT_FUZZ_CHECK(factor != nullptr);
  return factor->tensor.shape;
}

void CheckLora(const AdapterTarget& target, const Sizes& s) {
  GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kUp) == (Shape{s.o, s.r}));
  if (target.Find(FactorRole::kMid) != nullptr) {
    GRAFT_FUZZ_CHECK(s.w.size() == 4);
    GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kDown) == (Shape{s.r, s.i}));
    GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kMid) ==
                     s.WithKernel(s.r, s.r));
  } else {
    GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kDown) ==
                     s.WithKernel(s.r, s.i));
  }
}

void CheckLoha(const AdapterTarget& target, const Sizes& s) {
  using Role = FactorRole;
  for (const auto& [a, b, t] :
       {std::tuple(Role::kHadaW1A, Role::kHadaW1B, Role::kHadaT1),
        std::tuple(Role::kHadaW2A, Role::kHadaW2B, Role::kHadaT2)}) {
    if (target.Find(t) != nullptr) {
      GRAFT_FUZZ_CHECK(s.w.size() == 4);
      GRAFT_FUZZ_CHECK(ShapeOf(target, a) == (Shape{s.r, s.o}));
      GRAFT_FUZZ_CHECK(ShapeOf(target, b) == (Shape{s.r, s.i}));
      GRAFT_FUZZ_CHECK(ShapeOf(target, t) == s.WithKernel(s.r, s.r));
    } else {
      GRAFT_FUZZ_CHECK(ShapeOf(target, a) == (Shape{s.o, s.r}));
      GRAFT_FUZZ_CHECK(ShapeOf(target, b) == (Shape{s.r, s.row}));
    }
  }
}

void CheckLokr(const AdapterTarget& target, const Sizes& s) {
  using Role = FactorRole;
  Shape w1;
  if (target.Find(Role::kLokrW1) != nullptr) {
    w1 = ShapeOf(target, Role::kLokrW1);
  } else {
    const Shape& a = ShapeOf(target, Role::kLokrW1A);
    const Shape& b = ShapeOf(target, Role::kLokrW1B);
    GRAFT_FUZZ_CHECK(a.size() == 2 && b.size() == 2 && a[1] == b[0]);
    w1 = {a[0], b[1]};
  }
  GRAFT_FUZZ_CHECK(w1.size() == 2 && w1[0] > 0 && w1[1] > 0);
  GRAFT_FUZZ_CHECK(s.o % w1[0] == 0 && s.row % w1[1] == 0);
  const int64_t c = s.o / w1[0];
  const int64_t w2_row = s.row / w1[1];
  if (target.Find(Role::kLokrW2) != nullptr) {
    const Shape& w2 = ShapeOf(target, Role::kLokrW2);
    GRAFT_FUZZ_CHECK(w2[0] == c && Product(w2, 1) == w2_row);
    return;
  }
  const Shape& a = ShapeOf(target, Role::kLokrW2A);
  const Shape& b = ShapeOf(target, Role::kLokrW2B);
  if (target.Find(Role::kLokrT2) == nullptr) {
    GRAFT_FUZZ_CHECK(a == (Shape{c, s.r}) && b == (Shape{s.r, w2_row}));
    return;
  }
  GRAFT_FUZZ_CHECK(s.w.size() == 4 && s.i % w1[1] == 0);
  GRAFT_FUZZ_CHECK(a == (Shape{s.r, c}) && b == (Shape{s.r, s.i / w1[1]}));
  GRAFT_FUZZ_CHECK(ShapeOf(target, Role::kLokrT2) == s.WithKernel(s.r, s.r));
}

void CheckOft(const AdapterTarget& target, const Sizes& s) {
  const Shape& blocks = ShapeOf(target, FactorRole::kOftBlocks);
  const bool butterfly = target.algorithm == AdapterAlgorithm::kBoft;
  GRAFT_FUZZ_CHECK(blocks.size() == (butterfly ? 4u : 3u));
  const int64_t size = blocks.back();
  GRAFT_FUZZ_CHECK(size > 0 && size <= 2048);
  GRAFT_FUZZ_CHECK(blocks[blocks.size() - 2] == size);
  GRAFT_FUZZ_CHECK(blocks[blocks.size() - 3] * size == s.o);
  if (butterfly) {
    GRAFT_FUZZ_CHECK(blocks[0] > 0 && blocks[0] < 63);
    GRAFT_FUZZ_CHECK(s.o % (size << (blocks[0] - 1)) == 0);
  }
  if (target.Find(FactorRole::kRescale) != nullptr) {
    GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kRescale) == Shape{s.o});
  }
  GRAFT_FUZZ_CHECK(target.constraint >= 0 && std::isfinite(target.constraint));
}

void CheckShapes(const AdapterTarget& target, const ModuleInfo& module) {
  const Sizes s(target, module);
  switch (target.algorithm) {
    case AdapterAlgorithm::kLora:
      return CheckLora(target, s);
    case AdapterAlgorithm::kLoha:
      return CheckLoha(target, s);
    case AdapterAlgorithm::kLokr:
      return CheckLokr(target, s);
    case AdapterAlgorithm::kDiff:
      return GRAFT_FUZZ_CHECK(Product(ShapeOf(target, FactorRole::kDiff)) ==
                                  Product(s.w) &&
                              ShapeOf(target, FactorRole::kDiff)[0] == s.o);
    case AdapterAlgorithm::kIa3:
      return GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kIa3) ==
                              Shape{target.on_input ? s.i : s.o});
    case AdapterAlgorithm::kGlora:
      GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kGloraA1) ==
                       (Shape{s.i, s.r}));
      GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kGloraA2) ==
                       (Shape{s.r, s.i}));
      GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kGloraB1) ==
                       (Shape{s.o, s.r}));
      return GRAFT_FUZZ_CHECK(ShapeOf(target, FactorRole::kGloraB2) ==
                              s.WithKernel(s.r, s.i));
    case AdapterAlgorithm::kOft:
    case AdapterAlgorithm::kBoft:
      return CheckOft(target, s);
  }
}

void CheckTarget(const AdapterTarget& target, const ModuleInfo& module) {
  GRAFT_FUZZ_CHECK(target.rank >= 0);
  GRAFT_FUZZ_CHECK(std::isfinite(static_cast<float>(target.scale)));
  GRAFT_FUZZ_CHECK(target.parameter == ParameterKind::kWeight ||
                   module.has_bias);
  for (const AdapterFactor& factor : target.factors) {
    GRAFT_FUZZ_CHECK(target.Find(factor.role) == &factor);  // once
    const TensorView& tensor = factor.tensor;
    GRAFT_FUZZ_CHECK(IsFloatingPoint(tensor.dtype));
    GRAFT_FUZZ_CHECK(!tensor.shape.empty());
    GRAFT_FUZZ_CHECK(std::all_of(tensor.shape.begin(), tensor.shape.end(),
                                 [](int64_t size) { return size > 0; }));
    GRAFT_FUZZ_CHECK(static_cast<uint64_t>(tensor.num_elements()) *
                         TensorDtypeSize(tensor.dtype) ==
                     tensor.bytes.size());
    GRAFT_FUZZ_CHECK(ScanTensor(tensor) != TensorContent::kNonFinite);
  }
  CheckShapes(target, module);
  if (target.Find(FactorRole::kMagnitude) != nullptr) {
    const Sizes s(target, module);
    GRAFT_FUZZ_CHECK(
        ShapeOf(target, FactorRole::kMagnitude) ==
        Shape{target.magnitude_axis == WeightAxis::kOutput ? s.o : s.i});
  }
}

}  // namespace

const ModuleTable& Sd15Table() {
  static const auto* const table = new ModuleTable(Sd15Modules());
  return *table;
}

const ModuleTable& TinyTable() {
  static const auto* const table = new ModuleTable(FakeEngine::TinyModules());
  return *table;
}

void CheckAdapter(const ModuleTable& table, absl::string_view bytes,
                  const AdapterParser::Options& options) {
  const std::optional<SafetensorsFile> file = ParseAndCheck(bytes);
  if (!file.has_value()) return;
  const Base& base = BaseOf(table);
  const auto parsed =
      base.parser->Parse(*file, "file.safetensors", "digest", options);
  if (!parsed.ok()) return CheckError(parsed.status());
  const KeyReport& keys = parsed->report.keys;
  GRAFT_FUZZ_CHECK(keys.unmatched == 0 || options.allow_partial);
  GRAFT_FUZZ_CHECK(
      static_cast<size_t>(keys.matched + keys.unmatched + keys.not_applied) ==
      file->tensors().size());
  const std::vector<AdapterTarget>& targets = parsed->weights.targets;
  GRAFT_FUZZ_CHECK(!targets.empty());
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto module = base.modules.find(targets[i].module);
    GRAFT_FUZZ_CHECK(module != base.modules.end());
    CheckTarget(targets[i], *module->second);
    if (i == 0) continue;
    const AdapterTarget& before = targets[i - 1];
    GRAFT_FUZZ_CHECK(std::pair(before.module, before.parameter) <
                     std::pair(targets[i].module, targets[i].parameter));
  }
}

}  // namespace graft

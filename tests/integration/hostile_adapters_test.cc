// Hostile adapter files against the real engine: refused, and not one bit of
// the weights or of the next image is another.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/adapters/adapter_source.h"
#include "server/adapters/adapter_store.h"
#include "server/common/error.h"
#include "server/engine/torch_engine.h"
#include "tests/adapters/hostile_files.h"
#include "tests/testing/random_adapter_file.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace graft {
namespace {

using testing::AnyOf;

class HostileAdaptersTest : public testing::Test {
 protected:
  // The sizes that the files were made for.
  HostileAdaptersTest() : source_({.directory = adapters_.path()}) {
    WriteTinyModel(model_.path(),
                   {.unet_widths = {8, 16}, .unet_layers = 2, .text_width = 8});
    EngineOptions options;
    options.model_dir = model_.path();
    options.device = "cpu";
    options.threads = 1;
    auto engine = CreateTorchEngine(options);
    EXPECT_THAT(engine.status(), IsOk());
    engine_ = *std::move(engine);
    auto store = AdapterStore::Create(&source_, engine_.get(), {});
    EXPECT_THAT(store.status(), IsOk());
    store_ = *std::move(store);
  }

  absl::Status Load(const std::string& name, const std::string& bytes) {
    const std::string file = absl::StrCat(name, ".safetensors");
    std::ofstream(adapters_.File(file), std::ios::binary) << bytes;
    return store_->Load({.path = file}).status();
  }

  std::vector<uint8_t> Draw() {
    GenerationParams params;
    params.prompt = "a star";
    params.width = 16;
    params.height = 16;
    params.steps = 1;
    auto generation = engine_->Begin(params);
    EXPECT_THAT(generation.status(), IsOk());
    Generation* const raw = generation->get();
    EXPECT_THAT(engine_->Step({&raw, 1}), IsOk());
    return engine_->Finish(*raw).value().rgb;
  }

  const TempDir model_;
  const TempDir adapters_;
  const AdapterSource source_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<AdapterStore> store_;
};

TEST_F(HostileAdaptersTest, LeaveWeightsAndImagesAsTheyWere) {
  // With an adapter merged there is more that could go wrong.
  ASSERT_THAT(Load("good", RandomAdapterFile(RandomAdapterKind::kLora,
                                             engine_->modules().modules,
                                             /*rank=*/2, /*seed=*/1)),
              IsOk());
  const AdapterHandle good = store_->AcquireResident("good").value();
  ASSERT_THAT(engine_->SwitchAdapters({{good.prepared(), 1, 1}}).status(),
              IsOk());
  const std::string weights = engine_->WeightsSha256();
  const auto image = Draw();

  for (const HostileFile& file : AllHostileFiles()) {
    SCOPED_TRACE(file.what);
    // A convolution that some are made for is wider here, which is seen first.
    EXPECT_THAT(Load(file.what, file.bytes),
                AnyOf(HasReason(file.reason),
                      HasReason(ErrorReason::kAdapterBaseMismatch)));
    EXPECT_EQ(engine_->WeightsSha256(), weights);
    EXPECT_EQ(Draw(), image);
  }
  EXPECT_EQ(store_->List().size(), 1u);
}

}  // namespace
}  // namespace graft

#include "server/rpc/request_validation.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using testing::SizeIs;

using Change = std::function<void(v1::GenerateImageRequest&)>;

v1::GenerateImageRequest ValidRequest() {
  v1::GenerateImageRequest request;
  request.set_prompt("a star");
  request.set_steps(20);
  request.set_seed(7);
  return request;
}

absl::StatusOr<GenerationRequest> Validate(
    const Change& change = [](v1::GenerateImageRequest&) {}) {
  v1::GenerateImageRequest request = ValidRequest();
  change(request);
  return ValidateGenerateImageRequest(request, RequestLimits(),
                                      {.width = 128,
                                       .height = 192,
                                       .steps = 25,
                                       .guidance_scale = 5.0,
                                       .sampler = "euler"},
                                      /*fresh_seed=*/99);
}

v1::AdapterRef Ref(const std::string& name) {
  v1::AdapterRef ref;
  ref.set_name(name);
  return ref;
}

// The adapter "ink" with these ranges of steps.
v1::AdapterRef Scheduled(const std::vector<std::pair<float, float>>& ranges) {
  v1::AdapterRef ref = Ref("ink");
  for (const auto& [from, to] : ranges) {
    v1::WeightRange& range = *ref.add_schedule();
    range.set_from(from);
    range.set_to(to);
  }
  return ref;
}

TEST(RequestValidationTest, AbsentFieldsGetTheDefaults) {
  const auto request =
      Validate([](v1::GenerateImageRequest& request) { request.clear_seed(); });
  ASSERT_THAT(request, IsOk());
  EXPECT_EQ(request->params.width, 128);
  EXPECT_EQ(request->params.height, 192);
  EXPECT_EQ(request->params.guidance_scale, 5.0);
  EXPECT_EQ(request->params.sampler, "euler");
  EXPECT_EQ(request->params.seed, 99u);
  EXPECT_EQ(request->count, 1);
  EXPECT_THAT(request->adapters, SizeIs(0));
}

TEST(RequestValidationTest, GivenFieldsAreTaken) {
  const auto request = Validate([](v1::GenerateImageRequest& request) {
    request.set_prompt("");
    request.set_negative_prompt("red");
    request.set_width(64);
    request.set_height(2048);
    request.set_steps(1000);
    request.set_guidance_scale(0.0f);
    request.set_sampler("dpmpp_2m");
    request.set_seed(std::numeric_limits<uint64_t>::max());
    request.set_count(16);
  });
  ASSERT_THAT(request, IsOk());
  EXPECT_EQ(request->params.prompt, "");
  EXPECT_EQ(request->params.negative_prompt, "red");
  EXPECT_EQ(request->params.width, 64);
  EXPECT_EQ(request->params.height, 2048);
  EXPECT_EQ(request->params.steps, 1000);
  EXPECT_EQ(request->params.guidance_scale, 0.0);
  EXPECT_EQ(request->params.sampler, "dpmpp_2m");
  EXPECT_EQ(request->params.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(request->count, 16);
}

TEST(RequestValidationTest, SeedZeroIsASeed) {
  const auto request =
      Validate([](v1::GenerateImageRequest& request) { request.set_seed(0); });
  ASSERT_THAT(request, IsOk());
  EXPECT_EQ(request->params.seed, 0u);
}

TEST(RequestValidationTest, AdapterWeightsDefaultToOneAndToTheUnets) {
  const auto request = Validate([](v1::GenerateImageRequest& request) {
    *request.add_adapters() = Ref("plain");
    *request.add_adapters() = Ref("weighted");
    request.mutable_adapters(1)->set_weight(-8.0f);
    *request.add_adapters() = Ref("both");
    request.mutable_adapters(2)->set_weight(0.8f);
    request.mutable_adapters(2)->set_text_encoder_weight(0.0f);
    request.mutable_adapters(2)->set_sha256(std::string(64, 'A'));
  });
  ASSERT_THAT(request, IsOk());
  ASSERT_THAT(request->adapters, SizeIs(3));
  EXPECT_EQ(request->adapters[0].weight, 1.0);
  EXPECT_EQ(request->adapters[0].text_encoder_weight, 1.0);
  EXPECT_EQ(request->adapters[1].weight, -8.0);
  EXPECT_EQ(request->adapters[1].text_encoder_weight, -8.0);
  EXPECT_EQ(request->adapters[2].weight, 0.8);  // not 0.800000011920929
  EXPECT_EQ(request->adapters[2].text_encoder_weight, 0.0);
  EXPECT_EQ(request->adapters[2].sha256, std::string(64, 'a'));
}

TEST(RequestValidationTest, RangesGetTheAdaptersWeightsAndStandInOrder) {
  const auto request = Validate([](v1::GenerateImageRequest& request) {
    v1::AdapterRef& ref = *request.add_adapters();
    ref = Scheduled({{0.6f, 1.0f}, {0.3f, 0.6f}, {0.0f, 0.3f}});
    ref.set_weight(0.8f);
    ref.set_text_encoder_weight(0.5f);
    ref.mutable_schedule(1)->set_weight(0.2f);
    ref.mutable_schedule(2)->set_text_encoder_weight(0.1f);
  });
  ASSERT_THAT(request, IsOk());
  EXPECT_THAT(request->adapters[0].schedule,
              ElementsAre(WeightRange{0.0, 0.3, 0.8, 0.1},
                          WeightRange{0.3, 0.6, 0.2, 0.2},
                          WeightRange{0.6, 1.0, 0.8, 0.5}));
}

TEST(RequestValidationTest, SixteenAdaptersAreAllowed) {
  EXPECT_THAT(Validate([](v1::GenerateImageRequest& request) {
                for (int i = 0; i < 16; ++i) {
                  *request.add_adapters() = Ref("a" + std::to_string(i));
                }
              }),
              IsOk());
}

struct BadCase {
  std::string name;
  Change change;
  std::string field;
  std::string message;
};

class BadRequestTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadRequestTest, IsRefusedNamingFieldAndLimit) {
  const auto request = Validate(GetParam().change);
  EXPECT_THAT(request, HasReason(ErrorReason::kInvalidField,
                                 HasSubstr(GetParam().message)));
  EXPECT_THAT(GetErrorMetadata(request.status()),
              Contains(Pair("field", GetParam().field)));
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// One adapter with a weight.
Change Weighted(float weight) {
  return [weight](v1::GenerateImageRequest& request) {
    *request.add_adapters() = Ref("ink");
    request.mutable_adapters(0)->set_weight(weight);
  };
}

INSTANTIATE_TEST_SUITE_P(
    RequestValidationTest, BadRequestTest,
    testing::Values(
        BadCase{"NoSteps", [](auto& r) { r.set_steps(0); }, "steps",
                "between 1 and 1000, not 0"},
        BadCase{"TooManySteps", [](auto& r) { r.set_steps(1'000'000'000); },
                "steps", "between 1 and 1000, not 1000000000"},
        BadCase{"MostSteps", [](auto& r) { r.set_steps(4294967295u); }, "steps",
                "not 4294967295"},
        BadCase{"WidthNoMultiple", [](auto& r) { r.set_width(100); }, "width",
                "a multiple of 8, not 100; try 96 or 104"},
        BadCase{"WidthTooSmall", [](auto& r) { r.set_width(8); }, "width",
                "between 64 and 2048"},
        BadCase{"HeightTooLarge", [](auto& r) { r.set_height(2056); }, "height",
                "between 64 and 2048, not 2056"},
        BadCase{"HeightWraps", [](auto& r) { r.set_height(0x80000040u); },
                "height", "not 2147483712"},
        BadCase{"TooManyImages", [](auto& r) { r.set_count(1'000'000); },
                "count", "between 1 and 16"},
        BadCase{"LongPrompt",
                [](auto& r) { r.set_prompt(std::string(1'000'000, 'a')); },
                "prompt", "1000000 bytes; at most 16384"},
        BadCase{"LongNegativePrompt",
                [](auto& r) { r.set_negative_prompt(std::string(16385, 'a')); },
                "negative_prompt", "16385 bytes; at most 16384"},
        BadCase{"UnknownSampler", [](auto& r) { r.set_sampler("DDIM"); },
                "sampler", "ddim, euler, euler_a, dpmpp_2m, not \"DDIM\""},
        BadCase{"GuidanceNan", [](auto& r) { r.set_guidance_scale(kNan); },
                "guidance_scale", "between 0 and 100, not nan"},
        BadCase{"GuidanceInfinite", [](auto& r) { r.set_guidance_scale(kInf); },
                "guidance_scale", "not inf"},
        BadCase{"GuidanceNegative", [](auto& r) { r.set_guidance_scale(-1); },
                "guidance_scale", "not -1"},
        BadCase{"WeightNan", Weighted(kNan), "adapters[0].weight",
                "between -8 and 8, not nan"},
        BadCase{"WeightInfinite", Weighted(-kInf), "adapters[0].weight",
                "not -inf"},
        BadCase{"WeightTooLarge", Weighted(8.01f), "adapters[0].weight",
                "not 8.01"},
        BadCase{"TextEncoderWeightTooLarge",
                [](auto& r) {
                  *r.add_adapters() = Ref("ink");
                  r.mutable_adapters(0)->set_text_encoder_weight(9);
                },
                "adapters[0].text_encoder_weight", "between -8 and 8"},
        BadCase{"AdapterNameIsAPath",
                [](auto& r) { *r.add_adapters() = Ref("../ink"); },
                "adapters[0].name", "\"../ink\" is no adapter name"},
        BadCase{"AdapterNameIsEmpty",
                [](auto& r) { *r.add_adapters() = Ref(""); },
                "adapters[0].name", "is no adapter name"},
        BadCase{"RangeStartsBeforeTheSteps",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{-0.1f, 0.4f}});
                },
                "adapters[0].schedule[0].from", "between 0 and 1, not -0.1"},
        BadCase{"RangeStartsNowhere",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{kNan, 0.4f}});
                },
                "adapters[0].schedule[0].from", "between 0 and 1, not nan"},
        BadCase{"RangeEndsAfterTheSteps",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{0, kInf}});
                },
                "adapters[0].schedule[0].to", "between 0 and 1, not inf"},
        BadCase{"RangeIsEmpty",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{0, 0.4f}, {0.5f, 0.5f}});
                },
                "adapters[0].schedule[1].to", "above from, which is 0.5"},
        BadCase{"RangesOverlap",
                [](auto& r) {
                  *r.add_adapters() = Ref("night");
                  *r.add_adapters() = Scheduled({{0.5f, 1}, {0, 0.6f}});
                },
                "adapters[1].schedule[1]", "0-0.6 overlaps with 0.5-1"},
        BadCase{"RangeInsideARange",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{0, 1}, {0.2f, 0.3f}});
                },
                "adapters[0].schedule[1]", "0.2-0.3 overlaps with 0-1"},
        BadCase{
            "TooManyRanges",
            [](auto& r) {
              *r.add_adapters() =
                  Scheduled(std::vector<std::pair<float, float>>(17, {0, 1}));
            },
            "adapters[0].schedule", "at most 16 ranges are allowed, not 17"},
        BadCase{"RangeWeightTooLarge",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{0, 1}});
                  r.mutable_adapters(0)->mutable_schedule(0)->set_weight(8.5f);
                },
                "adapters[0].schedule[0].weight", "between -8 and 8, not 8.5"},
        BadCase{"RangeTextEncoderWeightIsNaN",
                [](auto& r) {
                  *r.add_adapters() = Scheduled({{0, 1}});
                  r.mutable_adapters(0)
                      ->mutable_schedule(0)
                      ->set_text_encoder_weight(kNan);
                },
                "adapters[0].schedule[0].text_encoder_weight", "between -8"},
        BadCase{"AdapterTwice",
                [](auto& r) {
                  *r.add_adapters() = Ref("ink");
                  *r.add_adapters() = Ref("night");
                  *r.add_adapters() = Ref("ink");
                },
                "adapters[2].name", "\"ink\" is named twice"},
        BadCase{"TooManyAdapters",
                [](auto& r) {
                  for (int i = 0; i < 1000; ++i) {
                    *r.add_adapters() = Ref("a" + std::to_string(i));
                  }
                },
                "adapters", "at most 16 adapters are allowed, not 1000"},
        BadCase{"ShortSha256",
                [](auto& r) {
                  *r.add_adapters() = Ref("ink");
                  r.mutable_adapters(0)->set_sha256("abc");
                },
                "adapters[0].sha256", "64 hexadecimal digits"}),
    [](const auto& info) { return info.param.name; });

TEST(RequestValidationTest, PreviewsBeyondTheLastStepAreNone) {
  const auto interval = [](uint32_t asked) {
    return Validate([=](auto& r) { r.set_preview_interval(asked); })
        .value()
        .preview_interval;
  };
  EXPECT_EQ(interval(0), 0);
  EXPECT_EQ(interval(19), 19);
  EXPECT_EQ(interval(20), 0);
  EXPECT_EQ(interval(~0u), 0);
}

TEST(RequestValidationTest, PriorityIsInteractiveUnlessItSaysBatch) {
  const auto priority = [](v1::Priority asked) {
    return Validate([=](auto& r) { r.set_priority(asked); });
  };
  EXPECT_EQ(priority(v1::PRIORITY_UNSPECIFIED)->priority,
            Priority::kInteractive);
  EXPECT_EQ(priority(v1::PRIORITY_INTERACTIVE)->priority,
            Priority::kInteractive);
  EXPECT_EQ(priority(v1::PRIORITY_BATCH)->priority, Priority::kBatch);
  EXPECT_EQ(GetErrorReason(priority(static_cast<v1::Priority>(3)).status()),
            ErrorReason::kInvalidField);
}

TEST(RequestValidationTest, WidenFloatIsWhatAPersonWrote) {
  EXPECT_EQ(WidenFloat(0.8f), 0.8);
  EXPECT_EQ(WidenFloat(-7.5f), -7.5);
  EXPECT_EQ(WidenFloat(1e30f), 1e30);
  EXPECT_EQ(WidenFloat(kInf), std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(WidenFloat(kNan)));
}

}  // namespace
}  // namespace graft

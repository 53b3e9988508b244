// Files that must be refused, each with its reason: damaged, contradictory,
// made for something else, or of an algorithm that is not implemented.

#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/adapters/adapter_parser.h"
#include "server/common/error.h"
#include "tests/adapters/parse_bytes.h"
#include "tests/testing/adapter_file_builder.h"
#include "tests/testing/fake_engine.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using Reason = ErrorReason;
using Dtype = TensorDtype;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr char kToQ[] =
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
constexpr char kToQPath[] =
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
constexpr char kConv1[] = "lora_unet_down_blocks_0_resnets_0_conv1";
constexpr char kNorm1[] = "lora_unet_down_blocks_0_resnets_0_norm1";
constexpr char kFc1[] = "lora_te_text_model_encoder_layers_0_mlp_fc1";

struct HostileFile {
  std::string what;
  std::string bytes;
  Reason reason;
  std::string message;  // a part of it
};

void PrintTo(const HostileFile& file, std::ostream* os) { *os << file.what; }

std::string Key(const char* suffix) { return absl::StrCat(kToQ, suffix); }

// A valid adapter, to be spoilt.
AdapterFileBuilder Good() {
  return AdapterFileBuilder().AddKohyaPair(kToQ, {2, 8}, {8, 2});
}

AdapterFileBuilder GoodBut(const char* suffix, Dtype dtype,
                           std::vector<int64_t> shape,
                           std::vector<double> values = {0.5}) {
  return Good().Remove(Key(suffix)).Add(Key(suffix), dtype, shape, values);
}

// Good, and one tensor more on the same module.
AdapterFileBuilder GoodAnd(const char* suffix, std::vector<int64_t> shape,
                           std::vector<double> values = {0.5}) {
  return Good().Add(Key(suffix), Dtype::kF32, shape, values);
}

AdapterFileBuilder Only(const char* suffix, std::vector<int64_t> shape) {
  return AdapterFileBuilder().Add(Key(suffix), Dtype::kF32, shape);
}

std::string WithHeader(const std::string& json) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) {
    bytes[i] = static_cast<char>(uint64_t{json.size()} >> (8 * i));
  }
  return bytes + json;
}

std::vector<HostileFile> DamagedFiles() {
  const std::string good = Good().Build();
  const auto corrupt = [](const char* what, std::string bytes,
                          const char* message = "") {
    return HostileFile{what, std::move(bytes), Reason::kAdapterCorrupt,
                       message};
  };
  const auto header = [&](const char* what, const char* from, const char* to) {
    return corrupt(what, Good().Corrupt(from, to).Build());
  };
  return {
      corrupt("Empty", ""),
      corrupt("SevenBytes", good.substr(0, 7)),
      corrupt("LengthOnly", good.substr(0, 8)),
      corrupt("HalfAHeader", good.substr(0, 60)),
      corrupt("LastByteMissing", good.substr(0, good.size() - 1)),
      corrupt("HeaderOnly", good.substr(0, good.size() - 4 * 33)),
      corrupt("OneByteTooMany", good + "x"),
      corrupt("HugeHeaderLength", std::string(8, '\xff') + good.substr(8)),
      corrupt("HeaderLengthZero", std::string(8, '\0')),
      corrupt("Pickle", "\x80\x02}q\x01(X\x05\x00\x00\x00model"),
      corrupt("ZipOfPyTorch", "PK\x03\x04" + std::string(100, 'z')),
      corrupt("HtmlErrorPage", "<!DOCTYPE html><html>404</html>"),
      corrupt("GitLfsPointer", "version https://git-lfs.github.com/spec/v1\n"),
      corrupt("HeaderNoJson", WithHeader("not json")),
      corrupt("HeaderArray", WithHeader("[]")),
      corrupt("HeaderNull", WithHeader("null")),
      corrupt("HeaderDeep", WithHeader(std::string(100000, '['))),
      corrupt("HeaderNotUtf8", WithHeader("{\"\xff\": 1}")),
      corrupt("ByteOrderMark", WithHeader("\xef\xbb\xbf{}")),
      header("UnknownDtype", "F32", "F33"),
      header("LowerCaseDtype", "F32", "f32"),
      header("DtypeOfOtherSize", "F32", "F16"),
      header("ShapeOfOtherSize", "[2,8]", "[2,7]"),
      header("ShapeThatWraps", "[2,8]", "[4294967296,4294967296,8,2]"),
      header("ShapeBeyond64Bits", "[2,8]", "[18446744073709551617]"),
      header("NegativeShape", "[2,8]", "[-2,-8]"),
      header("FractionalShape", "[2,8]", "[2.0,8]"),
      header("ShapeAsText", "[2,8]", "\"2,8\""),
      header("NoShape", "\"shape\"", "\"form\""),
      header("Overlap", "\"data_offsets\":[64,128]", "\"data_offsets\":[0,64]"),
      header("Gap", "\"data_offsets\":[128,132]", "\"data_offsets\":[132,136]"),
      header("BackwardsRange", "\"data_offsets\":[0,64]",
             "\"data_offsets\":[64,0]"),
      header("OffsetBeyondFile", "\"data_offsets\":[0,64]",
             "\"data_offsets\":[999936,1000000]"),
      header("ThreeOffsets", "[0,64]", "[0,32,64]"),
      header("SameKeyTwice", ".lora_up.weight", ".lora_down.weight"),
      corrupt("NulInName",
              AdapterFileBuilder()
                  .Add(absl::string_view("a\0b", 3), Dtype::kF32, {})
                  .Build()),
      corrupt("MetadataNumber",
              Good().Metadata("a", "b").Corrupt("\"b\"", "7").Build()),
      corrupt("BadAdapterMetadata",
              Good().Metadata("lora_adapter_metadata", "{").Build(),
              "lora_adapter_metadata"),
  };
}

std::vector<HostileFile> ContradictoryFiles() {
  const auto corrupt = [](const char* what, const AdapterFileBuilder& file,
                          const char* message) {
    return HostileFile{what, file.Build(), Reason::kAdapterCorrupt, message};
  };
  return {
      corrupt("NoUp", Good().Remove(Key(".lora_up.weight")),
              "up factor is missing"),
      corrupt("NoDown", Good().Remove(Key(".lora_down.weight")),
              "down factor is missing"),
      corrupt("AlphaOnly", Only(".alpha", {}), "both factors are missing"),
      corrupt("RankZero",
              GoodBut(".lora_down.weight", Dtype::kF32, {0, 8})
                  .Remove(Key(".lora_up.weight"))
                  .Add(Key(".lora_up.weight"), Dtype::kF32, {8, 0}),
              "rank 0"),
      corrupt("RanksDiffer", GoodBut(".lora_up.weight", Dtype::kF32, {8, 3}),
              "rank 2, the up factor 3"),
      corrupt("IntegerDown", GoodBut(".lora_down.weight", Dtype::kI32, {2, 8}),
              "dtype I32"),
      corrupt("IntegerUp", GoodBut(".lora_up.weight", Dtype::kI8, {8, 2}),
              "dtype I8"),
      corrupt("BoolUp", GoodBut(".lora_up.weight", Dtype::kBool, {8, 2}),
              "dtype BOOL"),
      corrupt("AlphaVector", GoodBut(".alpha", Dtype::kF32, {2}),
              "expected one number"),
      corrupt("AlphaMatrix", GoodBut(".alpha", Dtype::kF32, {1, 1}),
              "expected one number"),
      corrupt("AlphaEmpty", GoodBut(".alpha", Dtype::kF32, {0}),
              "expected one number"),
      corrupt("AlphaBool", GoodBut(".alpha", Dtype::kBool, {}),
              "expected one number"),
      corrupt("DownTwice", GoodAnd(".lora_A.weight", {2, 8}),
              "are the same part"),
      corrupt("TwoNamesInOneScheme",
              Good().Add(absl::StrCat(kToQPath, ".lora_A.weight"), Dtype::kF32,
                         {2, 8}),
              "named in two ways"),
      corrupt("BothUnetSchemes",
              Good().AddKohyaPair(
                  "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q",
                  {2, 8}, {8, 2}),
              "named in two ways"),
      corrupt("BothTextSpellings",
              AdapterFileBuilder()
                  .AddKohyaPair(kFc1, {2, 8}, {16, 2})
                  .AddKohyaPair("lora_te_encoder_layers_0_mlp_fc1", {2, 8},
                                {16, 2}),
              "named in two ways"),
  };
}

std::vector<HostileFile> NonFiniteFiles() {
  std::vector<HostileFile> files;
  const auto add = [&files](std::string what, const AdapterFileBuilder& file,
                            const char* message) {
    files.push_back({what, file.Build(), Reason::kAdapterNonFinite, message});
  };
  for (const Dtype dtype :
       {Dtype::kF64, Dtype::kF32, Dtype::kF16, Dtype::kBF16}) {
    const std::string name(TensorDtypeName(dtype));
    add("NanInDown" + name,
        GoodBut(".lora_down.weight", dtype, {2, 8}, {1, 2, kNan}),
        "to_q.lora_down.weight");
    add("InfinityInUp" + name,
        GoodBut(".lora_up.weight", dtype, {8, 2}, {1, -kInfinity}),
        "to_q.lora_up.weight");
    add("NanAlpha" + name, GoodBut(".alpha", dtype, {}, {kNan}), "to_q.alpha");
  }
  add("BeyondFloat32", GoodBut(".lora_up.weight", Dtype::kF64, {8, 2}, {1e300}),
      "beyond float32");
  add("AlphaBeyondFloat32", GoodBut(".alpha", Dtype::kF64, {}, {1e300}),
      "a scale of");
  return files;
}

std::vector<HostileFile> FilesThatDoNotFit() {
  const auto shape = [](const char* what, const AdapterFileBuilder& file) {
    return HostileFile{what, file.Build(), Reason::kAdapterBaseMismatch,
                       "expected"};
  };
  const auto unmatched = [](const char* what, const AdapterFileBuilder& file) {
    return HostileFile{what, file.Build(), Reason::kAdapterKeysUnmatched, ""};
  };
  return {
      shape("WiderInput", GoodBut(".lora_down.weight", Dtype::kF32, {2, 16})),
      shape("WiderOutput", GoodBut(".lora_up.weight", Dtype::kF32, {16, 2})),
      shape("ScalarDown", GoodBut(".lora_down.weight", Dtype::kF32, {})),
      shape("VectorDown", GoodBut(".lora_down.weight", Dtype::kF32, {8})),
      shape("ThreeDimensions",
            GoodBut(".lora_down.weight", Dtype::kF32, {2, 8, 1})),
      shape("FiveDimensions",
            GoodBut(".lora_down.weight", Dtype::kF32, {2, 8, 1, 1, 1})),
      shape("KernelOnLinear",
            GoodBut(".lora_down.weight", Dtype::kF32, {2, 8, 3, 3})),
      shape("NoKernelOnConvolution",
            AdapterFileBuilder().AddKohyaPair(kConv1, {2, 4}, {8, 2})),
      shape("FlatKernel",
            AdapterFileBuilder().AddKohyaPair(kConv1, {2, 36}, {8, 2})),
      shape("OtherKernel", AdapterFileBuilder().AddKohyaPair(
                               kConv1, {2, 4, 5, 5}, {8, 2, 1, 1})),
      shape("KernelInUp", AdapterFileBuilder().AddKohyaPair(
                              kConv1, {2, 4, 3, 3}, {8, 2, 3, 3})),
      shape("ZeroSizedUp", GoodBut(".lora_up.weight", Dtype::kF32, {0, 2})),
      unmatched("NoTensors", AdapterFileBuilder()),
      unmatched(
          "OneUnknownModule",
          Good().AddKohyaPair("lora_unet_mid_block_nowhere", {2, 8}, {8, 2})),
      unmatched("UnknownSuffix", GoodAnd(".lora_sideways.weight", {2, 8})),
      unmatched("NoTextEncoder2", AdapterFileBuilder().Add(
                                      "a.text_model.b.alpha", Dtype::kF32, {})),
      unmatched("ControlCharactersInName",
                AdapterFileBuilder().Add("a\n\x1b[31m", Dtype::kF32, {})),
      unmatched("EmbeddingsOnly",
                AdapterFileBuilder().Add("bundle_emb.word.emb_params",
                                         Dtype::kF32, {1, 8})),
      unmatched("CheckpointWeight",
                AdapterFileBuilder().Add(
                    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
                    Dtype::kF32, {8, 4, 3, 3})),
  };
}

std::vector<HostileFile> UnsupportedFiles() {
  const auto kind = [](const char* what, const AdapterFileBuilder& file,
                       const char* name) {
    return HostileFile{what, file.Build(), Reason::kAdapterKindUnsupported,
                       name};
  };
  return {
      kind("LoHa", Only(".hada_w1_a", {8, 2}), "LoHa"),
      kind("LoKrFull", Only(".lokr_w1", {2, 2}), "LoKr"),
      kind("LoKrFactors", Only(".lokr_w2_a", {2, 2}), "LoKr"),
      kind("DoRA", GoodAnd(".dora_scale", {8, 1}), "DoRA"),
      kind("PeftDoRA",
           AdapterFileBuilder().Add(
               absl::StrCat(kToQPath, ".lora_magnitude_vector"), Dtype::kF32,
               {8}),
           "DoRA"),
      kind("Tucker", GoodAnd(".lora_mid.weight", {2, 2, 3, 3}), "lora_mid"),
      kind("LoraBias", GoodAnd(".lora_B.bias", {8}), "lora_bias"),
      kind("FullDifference", Only(".diff", {8, 8}), "full difference"),
      kind("BiasDifference", Only(".diff_b", {8}), "full difference"),
      kind("NormDifference",
           AdapterFileBuilder().Add(absl::StrCat(kNorm1, ".w_norm"),
                                    Dtype::kF32, {4}),
           "norm difference"),
      kind("IA3", Only(".weight", {8}).Add(Key(".on_input"), Dtype::kBool, {1}),
           "IA3"),
      kind("GLoRA", Only(".a1.weight", {8, 2}), "GLoRA"),
      kind("OFT", Only(".oft_blocks", {2, 4, 4}), "OFT adapters"),
      kind("BOFT", Only(".oft_blocks", {2, 2, 4, 4}), "BOFT adapters"),
      kind("TLora", Only(".q_layer.weight", {2, 8}), "T-LoRA"),
      kind("SparseRemainder", GoodAnd(".bias_values", {4}), "sparse"),
      kind("ComfyPatch", Only(".set_weight", {8, 8}), "ComfyUI"),
      kind("OwnScale", GoodAnd(".scale", {}, {0.5}), "a factor of 0.5"),
      kind("OwnScalar", GoodAnd(".scalar", {}, {2}), "a factor of 2"),
      kind("LoraOnANorm",
           AdapterFileBuilder().AddKohyaPair(kNorm1, {2, 4}, {4, 2}),
           "neither a linear layer"),
      kind("Float8", GoodBut(".lora_up.weight", Dtype::kF8E4M3, {8, 2}),
           "F8_E4M3"),
  };
}

class HostileFileTest : public testing::TestWithParam<HostileFile> {};

TEST_P(HostileFileTest, IsRefusedWithItsReason) {
  EXPECT_THAT(
      ParseBytes(FakeEngine::TinyModules(), GetParam().bytes),
      HasReason(GetParam().reason, testing::HasSubstr(GetParam().message)));
}

// What is wrong with these is more than a part that does not fit.
TEST_P(HostileFileTest, IsRefusedAsAPartialLoadTooUnlessItIsOne) {
  const auto parsed = ParseBytes(FakeEngine::TinyModules(), GetParam().bytes,
                                 {.allow_partial = true});
  const bool may_fit_in_part =
      GetParam().reason == Reason::kAdapterBaseMismatch ||
      GetParam().reason == Reason::kAdapterKeysUnmatched;
  if (may_fit_in_part && parsed.ok()) {
    EXPECT_GT(parsed->report.keys.unmatched, 0);
  } else {
    EXPECT_THAT(parsed, HasReason(GetParam().reason));
  }
}

std::string Name(const testing::TestParamInfo<HostileFile>& info) {
  return info.param.what;
}

INSTANTIATE_TEST_SUITE_P(Damaged, HostileFileTest,
                         testing::ValuesIn(DamagedFiles()), Name);
INSTANTIATE_TEST_SUITE_P(Contradictory, HostileFileTest,
                         testing::ValuesIn(ContradictoryFiles()), Name);
INSTANTIATE_TEST_SUITE_P(NonFinite, HostileFileTest,
                         testing::ValuesIn(NonFiniteFiles()), Name);
INSTANTIATE_TEST_SUITE_P(DoesNotFit, HostileFileTest,
                         testing::ValuesIn(FilesThatDoNotFit()), Name);
INSTANTIATE_TEST_SUITE_P(Unsupported, HostileFileTest,
                         testing::ValuesIn(UnsupportedFiles()), Name);

TEST(HostileFilesTest, TheUnspoiltFileIsAccepted) {
  EXPECT_THAT(ParseBytes(FakeEngine::TinyModules(), Good().Build()), IsOk());
}

}  // namespace
}  // namespace graft

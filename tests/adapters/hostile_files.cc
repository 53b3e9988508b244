#include "tests/adapters/hostile_files.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "tests/testing/adapter_file_builder.h"

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

AdapterFileBuilder Loha() {
  return Only(".hada_w1_a", {8, 2})
      .Add(Key(".hada_w1_b"), Dtype::kF32, {2, 8})
      .Add(Key(".hada_w2_a"), Dtype::kF32, {8, 2})
      .Add(Key(".hada_w2_b"), Dtype::kF32, {2, 8});
}

AdapterFileBuilder Lokr() {
  return Only(".lokr_w1", {2, 4})
      .Add(Key(".lokr_w2_a"), Dtype::kF32, {4, 2})
      .Add(Key(".lokr_w2_b"), Dtype::kF32, {2, 2});
}

}  // namespace

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
              "lora_up.weight\" is missing"),
      corrupt("NoDown", Good().Remove(Key(".lora_down.weight")),
              "lora_down.weight\" is missing"),
      corrupt("AlphaOnly", Only(".alpha", {}), "all factors are missing"),
      corrupt("RankZero",
              GoodBut(".lora_down.weight", Dtype::kF32, {0, 8})
                  .Remove(Key(".lora_up.weight"))
                  .Add(Key(".lora_up.weight"), Dtype::kF32, {8, 0}),
              "rank 0"),
      corrupt("RanksDiffer", GoodBut(".lora_up.weight", Dtype::kF32, {8, 3}),
              "its rank is 3"),
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
      shape("FlatKernelOfOtherLength",
            AdapterFileBuilder().AddKohyaPair(kConv1, {2, 32}, {8, 2})),
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
      kind("LoraBiasWithoutBias", GoodAnd(".lora_B.bias", {8}), "no bias"),
      kind("BiasDifferenceWithoutBias", Only(".diff_b", {8}), "no bias"),
      kind("GloraOfTheFirstLayout",
           Only(".a1.weight", {2, 8})
               .Add(Key(".a2.weight"), Dtype::kF32, {8, 2})
               .Add(Key(".b1.weight"), Dtype::kF32, {2, 8})
               .Add(Key(".b2.weight"), Dtype::kF32, {8, 2}),
           "first layout"),
      kind("PeftIa3",
           AdapterFileBuilder().Add(absl::StrCat(kToQPath, ".ia3_l"),
                                    Dtype::kF32, {8}),
           "PEFT's IA3"),
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
      kind("Float8Alpha", GoodBut(".alpha", Dtype::kF8E5M2, {}),
           "dtype F8_E5M2"),
      // As tools cast whole files.
      kind("AllFloat8",
           AdapterFileBuilder()
               .Add(Key(".lora_down.weight"), Dtype::kF8E4M3, {2, 8})
               .Add(Key(".lora_up.weight"), Dtype::kF8E4M3, {8, 2})
               .Add(Key(".alpha"), Dtype::kF8E4M3, {}),
           "dtype F8_E4M3"),
      kind("AllFloat8Diff",
           AdapterFileBuilder()
               .Add(Key(".diff"), Dtype::kF8E4M3, {8, 8})
               .Add(Key(".alpha"), Dtype::kF8E4M3, {}),
           "dtype F8_E4M3"),
  };
}

std::vector<HostileFile> FilesOfOtherAlgorithms() {
  const auto file = [](const char* what, const AdapterFileBuilder& builder,
                       Reason reason, const char* message) {
    return HostileFile{what, builder.Build(), reason, message};
  };
  const auto with = [](AdapterFileBuilder builder, const char* suffix,
                       std::vector<int64_t> shape, double value = 0.5) {
    return builder.Remove(Key(suffix))
        .Add(Key(suffix), Dtype::kF32, shape, {value});
  };
  constexpr Reason kCorrupt = Reason::kAdapterCorrupt;
  constexpr Reason kMisfit = Reason::kAdapterBaseMismatch;
  constexpr Reason kNonFinite = Reason::kAdapterNonFinite;
  return {
      file("LohaHalf", Only(".hada_w1_a", {8, 2}), kCorrupt, "hada_w1_b"),
      file("LohaOneCore", with(Loha(), ".hada_t1", {2, 2, 3, 3}), kCorrupt,
           "hada_t2"),
      file("LohaSwapped", with(Loha(), ".hada_w1_a", {2, 8}), kMisfit,
           "expected [8, rank]"),
      file("LohaRanksDiffer", with(Loha(), ".hada_w2_a", {8, 3}), kCorrupt,
           "its rank is 3"),
      file("LohaNan", with(Loha(), ".hada_w2_b", {2, 8}, kNan), kNonFinite,
           "hada_w2_b"),
      file("LohaCoreNan",
           AdapterFileBuilder()
               .Add(absl::StrCat(kConv1, ".hada_w1_a"), Dtype::kF32, {2, 8})
               .Add(absl::StrCat(kConv1, ".hada_w1_b"), Dtype::kF32, {2, 4})
               .Add(absl::StrCat(kConv1, ".hada_t1"), Dtype::kF32, {2, 2, 3, 3})
               .Add(absl::StrCat(kConv1, ".hada_w2_a"), Dtype::kF32, {2, 8})
               .Add(absl::StrCat(kConv1, ".hada_w2_b"), Dtype::kF32, {2, 4})
               .Add(absl::StrCat(kConv1, ".hada_t2"), Dtype::kF32, {2, 2, 3, 3},
                    {0.5, kNan}),
           kNonFinite, "hada_t2"),
      file("LokrCoreNan",
           AdapterFileBuilder()
               .Add(absl::StrCat(kConv1, ".lokr_w1"), Dtype::kF32, {4, 2})
               .Add(absl::StrCat(kConv1, ".lokr_w2_a"), Dtype::kF32, {2, 2})
               .Add(absl::StrCat(kConv1, ".lokr_w2_b"), Dtype::kF32, {2, 2})
               .Add(absl::StrCat(kConv1, ".lokr_t2"), Dtype::kF32, {2, 2, 3, 3},
                    {0.5, kInfinity}),
           kNonFinite, "lokr_t2"),
      file("LokrHalf", Only(".lokr_w1", {2, 4}), kCorrupt, "lokr_w2_a"),
      file("LokrBothForms", with(Lokr(), ".lokr_w2", {4, 2}), kCorrupt,
           "whole and in factors"),
      file("LokrNoDivisor", with(Lokr(), ".lokr_w1", {3, 4}), kMisfit,
           "a divisor of 8"),
      file("LokrZero", with(Lokr(), ".lokr_w1", {0, 4}), kCorrupt, "0"),
      file("LokrCoreOnLinear", with(Lokr(), ".lokr_t2", {2, 2, 3, 3}), kMisfit,
           "larger kernels"),
      file("TwoAlgorithms", with(Loha(), ".lokr_w1", {2, 4}), kCorrupt,
           "LoHa and of LoKr"),
      file("LoraAndDiff", GoodAnd(".diff", {8, 8}), kCorrupt,
           "parts of LoRA and"),
      file("MidOnLinear", GoodAnd(".lora_mid.weight", {2, 2, 3, 3}), kMisfit,
           "larger kernels"),
      file("DoraAlone", Only(".dora_scale", {8, 1}), kCorrupt, "magnitude"),
      file("DoraOfOtherSize", GoodAnd(".dora_scale", {7, 1}), kMisfit,
           "expected [8, 1] or [1, 8]"),
      file("DoraOnDiff", with(Only(".diff", {8, 8}), ".dora_scale", {8, 1}),
           kCorrupt, "goes with"),
      file("DoraNan", GoodAnd(".dora_scale", {8, 1}, {kNan}), kNonFinite,
           "dora_scale"),
      file("DiffOfOtherShape", Only(".diff", {8, 9}), kMisfit,
           "expected [8, 8]"),
      file("DiffNanAlpha", with(Only(".diff", {8, 8}), ".alpha", {}, kNan),
           kNonFinite, "to_q.alpha"),
      file("DiffInfiniteAlpha",
           with(Only(".diff", {8, 8}), ".alpha", {}, -kInfinity), kNonFinite,
           "to_q.alpha"),
      file("DiffAlphaVector", with(Only(".diff", {8, 8}), ".alpha", {2}),
           kCorrupt, "expected one number"),
      file("NormNanAlpha",
           AdapterFileBuilder()
               .Add(absl::StrCat(kNorm1, ".w_norm"), Dtype::kF32, {4})
               .Add(absl::StrCat(kNorm1, ".alpha"), Dtype::kF32, {}, {kNan}),
           kNonFinite, "norm1.alpha"),
      file("Ia3NanAlpha",
           with(with(Only(".weight", {8}), ".on_input", {}, 1), ".alpha", {},
                kNan),
           kNonFinite, "to_q.alpha"),
      file("LokrWholeNanAlpha",
           with(with(Only(".lokr_w1", {2, 4}), ".lokr_w2", {4, 2}), ".alpha",
                {}, kNan),
           kNonFinite, "to_q.alpha"),
      file("NormOnLinear", Only(".w_norm", {8}), kMisfit, "a norm"),
      file("Ia3WithoutSwitch", Only(".weight", {8}), kCorrupt, "on_input"),
      file("Ia3SwitchOfTwo", with(Only(".weight", {8}), ".on_input", {}, 2),
           kCorrupt, "neither 0 nor 1"),
      file("GloraHalf", Only(".a1.weight", {8, 2}), kCorrupt, "a2.weight"),
      file("OftDoesNotTile", Only(".oft_blocks", {3, 4, 4}), kMisfit,
           "8 rows in all"),
      file("OftNotSquare", Only(".oft_blocks", {2, 4, 2}), kCorrupt,
           "block size is 2"),
      file("OftNan",
           with(Only(".rescale", {8}), ".oft_blocks", {2, 4, 4}, kNan),
           kNonFinite, "oft_blocks"),
      file("BoftNan",
           with(Only(".rescale", {8}), ".oft_blocks", {1, 2, 4, 4}, kNan),
           kNonFinite, "oft_blocks"),
      file("OftRescaleAlone", Only(".rescale", {8, 1}), kCorrupt, "oft_blocks"),
      file("OftRescaleOfOtherSize",
           with(Only(".oft_blocks", {2, 4, 4}), ".rescale", {4, 1}), kMisfit,
           "expected [8]"),
      file("BoftOdd", Only(".oft_blocks", {1, 8, 1, 1}), kMisfit, "expected"),
      file("BoftTooManyStages", Only(".oft_blocks", {4, 2, 4, 4}), kMisfit,
           "butterfly"),
      file("BoftDoesNotTile", Only(".oft_blocks", {1, 3, 4, 4}), kMisfit,
           "8 rows in all"),
  };
}

std::vector<HostileFile> AllHostileFiles() {
  std::vector<HostileFile> all;
  for (const auto& some :
       {DamagedFiles(), ContradictoryFiles(), NonFiniteFiles(),
        FilesThatDoNotFit(), FilesOfOtherAlgorithms(), UnsupportedFiles()}) {
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

std::string UnspoiltFile() { return Good().Build(); }

}  // namespace graft

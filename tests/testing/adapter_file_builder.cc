#include "tests/testing/adapter_file_builder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace graft {
namespace {

template <typename T>
void Append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

// Rounds towards zero, which is exact for the small values of tests.
uint16_t ToBFloat16(double value) {
  const auto single = static_cast<float>(value);
  uint32_t bits = 0;
  std::memcpy(&bits, &single, sizeof(bits));
  return static_cast<uint16_t>(bits >> 16);
}

// As above; too large becomes infinity, subnormal becomes zero.
uint16_t ToFloat16(double value) {
  const auto single = static_cast<float>(value);
  uint32_t bits = 0;
  std::memcpy(&bits, &single, sizeof(bits));
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t fraction = bits & 0x7FFFFF;
  const int exponent = static_cast<int>((bits >> 23) & 0xFF) - 127 + 15;
  if (exponent == 255 - 127 + 15) {  // infinity, NaN
    return static_cast<uint16_t>(sign | 0x7C00 | (fraction != 0 ? 0x200 : 0));
  }
  if (exponent >= 31) return static_cast<uint16_t>(sign | 0x7C00);
  if (exponent <= 0) return sign;
  return static_cast<uint16_t>(sign | (exponent << 10) | (fraction >> 13));
}

void AppendAs(std::string& bytes, TensorDtype dtype, double value) {
  switch (dtype) {
    case TensorDtype::kF64:
      return Append(bytes, value);
    case TensorDtype::kF32:
      return Append(bytes, static_cast<float>(value));
    case TensorDtype::kF16:
      return Append(bytes, ToFloat16(value));
    case TensorDtype::kBF16:
      return Append(bytes, ToBFloat16(value));
    default:
      break;
  }
  // The integers are two's complement: the low bytes are right for all widths.
  std::string wide;
  Append(wide, static_cast<int64_t>(value));
  bytes.append(wide, 0, TensorDtypeSize(dtype));
}

std::string Quote(const std::string& text) {
  return nlohmann::json(text).dump();
}

}  // namespace

AdapterFileBuilder& AdapterFileBuilder::Add(absl::string_view key,
                                            TensorDtype dtype,
                                            std::vector<int64_t> shape,
                                            std::vector<double> values) {
  int64_t count = 1;
  for (const int64_t dimension : shape) count *= dimension;
  Entry entry{std::string(key), dtype, std::move(shape), {}};
  for (int64_t i = 0; i < count; ++i) {
    AppendAs(entry.bytes, dtype, values[i % values.size()]);
  }
  entries_.push_back(std::move(entry));
  return *this;
}

AdapterFileBuilder& AdapterFileBuilder::AddKohyaPair(absl::string_view module,
                                                     std::vector<int64_t> down,
                                                     std::vector<int64_t> up) {
  const auto rank = static_cast<double>(down[0]);
  return Add(absl::StrCat(module, ".lora_down.weight"), TensorDtype::kF32,
             std::move(down))
      .Add(absl::StrCat(module, ".lora_up.weight"), TensorDtype::kF32,
           std::move(up))
      .Add(absl::StrCat(module, ".alpha"), TensorDtype::kF32, {}, {rank});
}

AdapterFileBuilder& AdapterFileBuilder::Remove(absl::string_view key) {
  entries_.erase(
      std::remove_if(entries_.begin(), entries_.end(),
                     [&](const Entry& entry) { return entry.key == key; }),
      entries_.end());
  return *this;
}

AdapterFileBuilder& AdapterFileBuilder::Metadata(absl::string_view key,
                                                 absl::string_view value) {
  metadata_[std::string(key)] = std::string(value);
  return *this;
}

AdapterFileBuilder& AdapterFileBuilder::Corrupt(absl::string_view from,
                                                absl::string_view to) {
  replacements_.push_back({std::string(from), std::string(to)});
  return *this;
}

std::string AdapterFileBuilder::Header() const {
  std::vector<std::string> members;
  if (!metadata_.empty()) {
    members.push_back(
        absl::StrCat("\"__metadata__\":", nlohmann::json(metadata_).dump()));
  }
  size_t offset = 0;
  for (const Entry& entry : entries_) {
    members.push_back(
        absl::StrCat(Quote(entry.key), ":{\"dtype\":\"",
                     TensorDtypeName(entry.dtype), "\",\"shape\":[",
                     absl::StrJoin(entry.shape, ","), "],\"data_offsets\":[",
                     offset, ",", offset + entry.bytes.size(), "]}"));
    offset += entry.bytes.size();
  }
  std::string header = absl::StrCat("{", absl::StrJoin(members, ","), "}");
  for (const Replacement& replacement : replacements_) {
    const size_t at = header.find(replacement.from);
    if (at != std::string::npos) {
      header.replace(at, replacement.from.size(), replacement.to);
    }
  }
  return header;
}

std::string AdapterFileBuilder::Build() const {
  const std::string header = Header();
  std::string bytes;
  Append(bytes, uint64_t{header.size()});
  bytes += header;
  for (const Entry& entry : entries_) bytes += entry.bytes;
  return bytes;
}

std::string TinyLoraFile(int variant) {
  return AdapterFileBuilder()
      .AddKohyaPair(
          "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_"
          "to_q",
          {2, 8}, {8, 2})
      .AddKohyaPair("lora_te_text_model_encoder_layers_0_mlp_fc1", {2, 8},
                    {16, 2})
      .Metadata("ss_output_name", absl::StrCat("tiny-", variant))
      .Build();
}

}  // namespace graft

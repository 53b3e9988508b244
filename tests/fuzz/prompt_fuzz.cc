// Prompts: an input is one, without what is no UTF-8, as protobuf lets nothing
// else through. It is made into tokens, and into the text of a PNG file.

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "server/common/utf8.h"
#include "server/scheduling/generation_metadata.h"
#include "server/tokenizer/clip_text.h"
#include "server/tokenizer/clip_tokenizer.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

std::string WithoutDamage(absl::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const size_t length = Utf8SequenceLength(text);
    valid.append(text.data(), length);
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return valid;
}

void CheckTokens(const std::string& prompt) {
  static const ClipTokenizer* const tokenizer = [] {
    auto loaded = ClipTokenizer::Load(GRAFT_TESTDATA);
    GRAFT_FUZZ_CHECK(loaded.ok());
    return loaded->release();
  }();
  const ClipTokenizer::Encoding encoding = tokenizer->Encode(prompt);
  GRAFT_FUZZ_CHECK(static_cast<int>(encoding.ids.size()) ==
                   tokenizer->max_length());
  GRAFT_FUZZ_CHECK(std::all_of(
      encoding.ids.begin(), encoding.ids.end(),
      [](int32_t id) { return id >= 0 && id < tokenizer->vocab_size(); }));
  GRAFT_FUZZ_CHECK(encoding.num_truncated >= 0 &&
                   encoding.num_truncated <= encoding.num_tokens);
}

void CheckText(const std::string& prompt) {
  const std::string normalized = NormalizeClipText(prompt);
  GRAFT_FUZZ_CHECK(IsValidUtf8(normalized));
  size_t length = 0;
  for (const absl::string_view word : SplitClipWords(normalized)) {
    GRAFT_FUZZ_CHECK(!word.empty());
    length += word.size();
  }
  GRAFT_FUZZ_CHECK(length <= normalized.size());
}

void CheckMetadata(const std::string& prompt) {
  GenerationParams params;
  params.prompt = prompt;
  params.negative_prompt = prompt;
  for (const auto& [key, text] : GenerationMetadata({}, params, {})) {
    GRAFT_FUZZ_CHECK(IsValidUtf8(text));
    if (key != "graft") continue;
    const auto json = nlohmann::json::parse(text, nullptr, false);
    GRAFT_FUZZ_CHECK(json.is_object() && json.value("prompt", "") == prompt);
  }
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  return {
      {"a lighthouse at dawn, 35mm, it's (sharp:1.2)",
       "<|startoftext|>a<|endoftext|>  \t\n!",
       "\xc3\x84rger \xc4\xb0stanbul \xe2\x98\xba \xf0\x9f\x8c\x85 \xcc\x81",
       "Negative prompt: x\nSteps: 20, Size: 1x1", "'s 't're'LL 12\xc2\xb2"},
      {"<|startoftext|>", "<|endoftext|>", "'re", "'ll", "\xcc\x81",
       "\xe1\x84\x80\xe1\x85\xa1", "\xc4\xb0", "\xe2\x80\xa8", "\xef\xbf\xbf",
       "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf", std::string(1, '\0'),
       "\nNegative prompt: ", "\nSteps: ", "\"", "\\"},
      size_t{2} << 10};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string prompt =
      graft::WithoutDamage({reinterpret_cast<const char*>(data), size});
  graft::CheckTokens(prompt);
  graft::CheckText(prompt);
  graft::CheckMetadata(prompt);
  return 0;
}

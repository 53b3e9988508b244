// The files of a tokenizer's folder: an input is a folder (file_sections.h). A
// tokenizer that comes of it has to work.

#include <algorithm>
#include <string>

#include "absl/strings/string_view.h"
#include "server/common/error.h"
#include "server/tokenizer/clip_tokenizer.h"
#include "tests/fuzz/file_sections.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

constexpr char kVocabulary[] =
    R"({"<|startoftext|>":0,"<|endoftext|>":1,"a":2,"b":3,"a</w>":4,)"
    R"("b</w>":5,"ab":6,"ab</w>":7,"!</w>":8})";
constexpr char kMerges[] = "#version: 0.2\na b\na b</w>";

void Check(const ClipTokenizer& tokenizer) {
  for (const absl::string_view prompt :
       {"", "ab abba! <|endoftext|>b", "<new> \xc3\x84 1's"}) {
    const ClipTokenizer::Encoding encoding = tokenizer.Encode(prompt);
    GRAFT_FUZZ_CHECK(static_cast<int>(encoding.ids.size()) ==
                     tokenizer.max_length());
    GRAFT_FUZZ_CHECK(std::all_of(
        encoding.ids.begin(), encoding.ids.end(),
        [&](int32_t id) { return id >= 0 && id < tokenizer.vocab_size(); }));
  }
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  return {
      {
          JoinSections(
              {{"vocab.json", kVocabulary},
               {"merges.txt", kMerges},
               {"tokenizer_config.json",
                R"({"model_max_length":8,"pad_token":"!",)"
                R"("bos_token":{"content":"<|startoftext|>","special":true},)"
                R"("padding_side":"right","additional_special_tokens":["<x>"],)"
                R"("added_tokens_decoder":{"1":{"content":"<|endoftext|>",)"
                R"("normalized":true}}})"}}),
          JoinSections({{"vocab.json", kVocabulary},
                        {"merges.txt", kMerges},
                        {"tokenizer_config.json", R"({"model_max_length":77})"},
                        {"special_tokens_map.json",
                         R"({"unk_token":"<|endoftext|>","mask_token":"<m>"})"},
                        {"added_tokens.json", R"({"<new>":9})"}}),
          JoinSections(
              {{"tokenizer.json",
                std::string(R"({"model":{"vocab":)") + kVocabulary +
                    R"(,"merges":["a b",["a","b</w>"]]},"added_tokens":[)"
                    R"({"id":0,"content":"<|startoftext|>","special":true}]})"},
               {"tokenizer_config.json", R"({"model_max_length":2})"}}),
          // Roles that nothing fills.
          JoinSections({{"vocab.json", kVocabulary},
                        {"merges.txt", kMerges},
                        {"tokenizer_config.json",
                         R"({"model_max_length":8,"bos_token":""})"}}),
      },
      {"=== ",
       "vocab.json\n",
       "merges.txt\n",
       "tokenizer_config.json\n",
       "special_tokens_map.json\n",
       "added_tokens.json\n",
       "tokenizer.json\n",
       "{",
       "}",
       "[",
       "]",
       "\"",
       "\"\"",
       ":",
       ",",
       "null",
       "-1",
       "2147483646",
       "2147483647",
       "18446744073709551615",
       "\"bos_token\":",
       "\"eos_token\":",
       "\"unk_token\":",
       "\"pad_token\":",
       "\"mask_token\":",
       "\"extra_special_tokens\":",
       "\"additional_special_tokens\":",
       "\"added_tokens_decoder\":",
       "\"content\":",
       "\"normalized\":true",
       "\"special\":",
       "\"id\":",
       "\"single_word\":",
       "\"model\":",
       "\"vocab\":",
       "\"merges\":",
       "\"added_tokens\":",
       "\"model_max_length\":",
       "</w>",
       "<|startoftext|>",
       "<|endoftext|>",
       "[[[[[[[["},
      size_t{8} << 10,
      500};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* const folder = new graft::FuzzFolder(
      {"vocab.json", "merges.txt", "tokenizer_config.json",
       "special_tokens_map.json", "added_tokens.json", "tokenizer.json"});
  const auto tokenizer = graft::ClipTokenizer::Load(
      folder->Fill({reinterpret_cast<const char*>(data), size},
                   [](absl::string_view, std::string text) { return text; }));
  if (tokenizer.ok()) {
    graft::Check(**tokenizer);
  } else {
    GRAFT_FUZZ_CHECK(graft::GetErrorReason(tokenizer.status()) ==
                     graft::ErrorReason::kModelUnsupported);
  }
  return 0;
}

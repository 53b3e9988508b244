// Names that come from outside: of adapters, of their files and of tensors, and
// text that is shown. An input is one name.

#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/adapters/adapter_id.h"
#include "server/adapters/adapter_source.h"
#include "server/adapters/key_names.h"
#include "server/common/error.h"
#include "server/common/utf8.h"
#include "tests/fuzz/adapter_check.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

constexpr absl::string_view kInside = "what may be read";
constexpr absl::string_view kSecret = "what may not be read";

// An adapter directory with links of all kinds, and a file beside it.
void FillFolder(const TempDir& folder) {
  folder.Write("adapters/a.safetensors", kInside);
  folder.Write("adapters/b/adapter_config.json", "{}");
  folder.Write("adapters/b/adapter_model.safetensors", kInside);
  folder.Write("adapters/b/c.safetensors", kInside);
  folder.Write("secret.safetensors", kSecret);
  folder.Write("secret/adapter_config.json", kSecret);
  folder.Write("secret/adapter_model.safetensors", kSecret);
  for (const auto& [link, to] :
       {std::pair("adapters/out.safetensors", "../secret.safetensors"),
        std::pair("adapters/out", "../secret"), std::pair("adapters/up", ".."),
        std::pair("adapters/in", "b"), std::pair("adapters/round", "round"),
        std::pair("adapters/root", "/"),
        std::pair("adapters/self", "/proc/self/cwd")}) {
    GRAFT_FUZZ_CHECK(symlink(to, folder.File(link).c_str()) == 0);
  }
  GRAFT_FUZZ_CHECK(
      mkfifo(folder.File("adapters/f.safetensors").c_str(), 0600) == 0);
}

// Static, so that it is removed when the process ends in order.
const TempDir& Folder() {
  static const TempDir folder;
  static const bool filled = (FillFolder(folder), true);
  (void)filled;
  return folder;
}

void CheckPath(absl::string_view path) {
  static const auto* const source =
      new AdapterSource({.directory = Folder().File("adapters")});
  const absl::Status allowed = AdapterSource::CheckPath(path);
  const auto file = source->Read(path);
  if (!allowed.ok()) GRAFT_FUZZ_CHECK(file.status() == allowed);
  if (file.ok()) {
    GRAFT_FUZZ_CHECK(
        absl::string_view(reinterpret_cast<const char*>(file->bytes.data()),
                          file->bytes.size()) == kInside);
  } else {
    const auto reason = GetErrorReason(file.status());
    GRAFT_FUZZ_CHECK(reason == ErrorReason::kInvalidField ||
                     reason == ErrorReason::kPathNotAllowed ||
                     reason == ErrorReason::kAdapterNotFound ||
                     reason == ErrorReason::kAdapterCorrupt);
    GRAFT_FUZZ_CHECK(IsValidUtf8(file.status().message()));
  }
}

void CheckId(absl::string_view name) {
  GRAFT_FUZZ_CHECK(IsValidAdapterId(SuggestAdapterId(name)));
  for (const absl::string_view path : {name, absl::string_view("x/y")}) {
    for (const absl::string_view wanted : {name, absl::string_view()}) {
      const auto id = ChooseAdapterId(wanted, path);
      GRAFT_FUZZ_CHECK(id.ok() ? IsValidAdapterId(*id)
                               : GetErrorReason(id.status()) ==
                                     ErrorReason::kInvalidField);
    }
  }
}

void CheckKey(absl::string_view key) {
  static const auto* const names =
      new absl::StatusOr<KeyNames>(KeyNames::Create(&Sd15Table()));
  GRAFT_FUZZ_CHECK(names->ok());
  for (const absl::string_view component : {"", "unet", "text_encoder"}) {
    const bool known = (*names)->Find(key, component).has_value();
    const std::string end = (*names)->UnknownEnd(key, component);
    GRAFT_FUZZ_CHECK(!known || end.empty());
    GRAFT_FUZZ_CHECK(end.empty() || absl::EndsWith(key, end) ||
                     absl::StrContains(key, ".processor."));
  }
}

void CheckShown(absl::string_view text) {
  const std::string shown = EscapeUntrusted(text, 100);
  GRAFT_FUZZ_CHECK(IsValidUtf8(shown));
  GRAFT_FUZZ_CHECK(shown.size() <= 100 + 8 + 3);
  GRAFT_FUZZ_CHECK(EscapeUntrusted(shown, 200) == shown);
  const absl::Status error = Error(ErrorReason::kInternal, "x",
                                   {{"key", std::string(text)}, {"b", "c"}});
  const ErrorMetadata metadata = {{"key", std::string(text)}, {"b", "c"}};
  GRAFT_FUZZ_CHECK(GetErrorMetadata(error) == metadata);
}

}  // namespace

FuzzTarget DescribeFuzzTarget() {
  return {
      {"a.safetensors",
       "b",
       "b/",
       "b/c.safetensors",
       "in/c.safetensors",
       "./in/../a.safetensors",
       "out.safetensors",
       "out/",
       "up/secret/",
       "up/secret.safetensors",
       "round/x.safetensors",
       "f.safetensors",
       "root/etc/x.safetensors",
       "self/x.safetensors",
       "x.pt",
       "/a.safetensors",
       "Ink Wash \xe2\x98\xba.safetensors",
       "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
       "base_model.model.mid_block.resnets.0.conv1.lora_A.default.weight",
       "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor."
       "to_q_lora.down.weight",
       "clip_l.text_projection.oft_R.weight"},
      {"..",
       "/",
       "./",
       "a.safetensors",
       "b",
       "in",
       "out",
       "up",
       "root",
       "self",
       "secret",
       "round",
       ".safetensors",
       ".pt",
       std::string(1, '\0'),
       "\n",
       "\xc2\x80",
       "\xff",
       "\xe2\x98\xba",
       "lora_unet_",
       "unet.",
       "base_model.model.",
       "mid_block",
       ".lora_A.",
       ".default",
       ".weight",
       ".processor.",
       "to_out.0",
       ".to_q"},
      1024};
}

}  // namespace graft

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  graft::CheckPath(input);
  graft::CheckId(input);
  graft::CheckKey(input);
  graft::CheckShown(input);
  return 0;
}

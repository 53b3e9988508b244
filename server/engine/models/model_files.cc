#include "server/engine/models/model_files.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "server/engine/models/config_reader.h"

namespace graft {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

absl::Status FileError(absl::string_view path, absl::string_view problem) {
  return Error(ErrorReason::kModelUnsupported,
               absl::StrCat(path, ": ", problem),
               {{"file", std::string(path)}});
}

// model_index.json says which class each component is.
absl::Status CheckIndex(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const Json index, ReadJsonObject(path));
  const auto class_of = [&](const char* key) -> std::string {
    const auto it = index.find(key);
    if (it == index.end()) return "";
    if (it->is_string()) return it->get<std::string>();
    if (it->is_array() && it->size() == 2 && (*it)[1].is_string()) {
      return (*it)[1].get<std::string>();
    }
    return "";
  };
  struct Expected {
    const char* key;
    std::vector<std::string> class_names;  // the usual one first
  };
  // A folder may have been saved by any pipeline of these components. Whether
  // an inpainting one's U-Net takes more than latents, its own configuration
  // tells.
  for (const auto& [key, expected] :
       {Expected{"_class_name",
                 {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline",
                  "StableDiffusionInpaintPipeline"}},
        Expected{"unet", {"UNet2DConditionModel"}},
        Expected{"vae", {"AutoencoderKL"}},
        Expected{"text_encoder", {"CLIPTextModel"}},
        Expected{"tokenizer", {"CLIPTokenizer", "CLIPTokenizerFast"}}}) {
    const std::string found = class_of(key);
    if (std::find(expected.begin(), expected.end(), found) == expected.end()) {
      return FileError(
          path, absl::StrCat("\"", key, "\" is \"", found, "\", and only ",
                             expected[0], " is supported"));
    }
  }
  return absl::OkStatus();
}

// The weights file of a component: the plain name, else an index of shards,
// else the only candidate of a variant ("model.fp16.safetensors").
absl::StatusOr<std::string> FindWeights(const std::string& folder,
                                        absl::string_view component) {
  const std::string stem =
      component == "text_encoder" ? "model" : "diffusion_pytorch_model";
  for (const char* ending : {".safetensors", ".safetensors.index.json"}) {
    const std::string path = absl::StrCat(folder, "/", stem, ending);
    if (fs::exists(path)) return path;
  }
  std::vector<std::string> variants;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    // A shard ("-00001-of-00002") counts through its index alone.
    if (absl::StartsWith(name, stem + ".") &&
        !absl::StrContains(name, "-of-") &&
        (absl::EndsWith(name, ".safetensors") ||
         (absl::StrContains(name, ".index.") &&
          absl::EndsWith(name, ".json")))) {
      variants.push_back(entry.path().string());
    }
  }
  if (variants.size() == 1) return variants[0];
  std::sort(variants.begin(), variants.end());
  return FileError(
      absl::StrCat(folder, "/", stem, ".safetensors"),
      variants.empty()
          ? "is missing (weights must be in safetensors form)"
          : absl::StrCat("is missing, and there are several variants: ",
                         absl::StrJoin(variants, ", ")));
}

// The canonical name of a tensor, empty for one that is no parameter.
std::string CanonicalName(absl::string_view component, absl::string_view key) {
  // Saved by old transformers: the row numbers of the position embedding.
  if (absl::EndsWith(key, "position_ids")) return "";
  if (component == "text_encoder") {
    // transformers 5 has no "text_model." level.
    absl::ConsumePrefix(&key, "text_model.");
    return absl::StrCat("text_encoder.text_model.", key);
  }
  if (component == "vae" && absl::StrContains(key, ".attentions.")) {
    return absl::StrCat(
        "vae.", absl::StrReplaceAll(key, {{".query.", ".to_q."},
                                          {".key.", ".to_k."},
                                          {".value.", ".to_v."},
                                          {".proj_attn.", ".to_out.0."}}));
  }
  return absl::StrCat(component, ".", key);
}

// Old VAE folders keep their attention projections as 1x1 convolutions.
void SqueezeVaeAttention(const std::string& name, TensorView& view) {
  if (absl::StartsWith(name, "vae.") &&
      absl::StrContains(name, ".attentions.") && view.shape.size() == 4 &&
      view.shape[2] == 1 && view.shape[3] == 1) {
    view.shape.resize(2);
  }
}

}  // namespace

std::string ModelFiles::Path(absl::string_view relative) const {
  return absl::StrCat(folder_, "/", relative);
}

absl::StatusOr<ModelFiles> ModelFiles::Open(const std::string& folder) {
  ModelFiles files;
  files.folder_ = folder;
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return FileError(folder,
                     "is not a folder; --model takes a diffusers-format folder "
                     "with model_index.json");
  }
  GRAFT_RETURN_IF_ERROR(CheckIndex(files.Path("model_index.json")));
  for (const char* component : {"unet", "text_encoder", "vae"}) {
    GRAFT_RETURN_IF_ERROR(files.AddComponent(component));
  }
  return files;
}

absl::Status ModelFiles::AddComponent(absl::string_view component) {
  const std::string folder = Path(component);
  GRAFT_ASSIGN_OR_RETURN(const std::string path,
                         FindWeights(folder, component));
  if (!absl::EndsWith(path, ".json")) return AddFile(component, path, nullptr);

  GRAFT_ASSIGN_OR_RETURN(const Json index, ReadJsonObject(path));
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    return FileError(path, "has no \"weight_map\"");
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      return FileError(path, "\"weight_map\" is malformed");
    const std::string file = shard.get<std::string>();
    if (file.empty() || fs::path(file).filename() != file || file == "..") {
      return FileError(path, absl::StrCat("names the shard \"", file,
                                          "\", which leaves the folder"));
    }
    shards[file].push_back(tensor);
  }
  for (const auto& [file, tensors] : shards) {
    GRAFT_RETURN_IF_ERROR(
        AddFile(component, absl::StrCat(folder, "/", file), &tensors));
  }
  return absl::OkStatus();
}

absl::Status ModelFiles::AddFile(absl::string_view component,
                                 const std::string& path,
                                 const std::vector<std::string>* only) {
  SafetensorsFile::Limits limits;
  limits.max_header_bytes = size_t{100} << 20;  // the format's own bound
  GRAFT_ASSIGN_OR_RETURN(SafetensorsFile file,
                         SafetensorsFile::Map(path, limits));
  const auto add = [&](const std::string& key,
                       TensorView view) -> absl::Status {
    const std::string name = CanonicalName(component, key);
    if (name.empty()) return absl::OkStatus();
    if (!IsFloatingPoint(view.dtype)) {
      return FileError(path, absl::StrCat("tensor \"", key, "\" is ",
                                          TensorDtypeName(view.dtype),
                                          ", not floating point"));
    }
    SqueezeVaeAttention(name, view);
    if (!tensors_.emplace(name, std::move(view)).second) {
      return FileError(path, absl::StrCat("tensor \"", key, "\" occurs twice"));
    }
    return absl::OkStatus();
  };
  if (only == nullptr) {
    for (const auto& [key, view] : file.tensors()) {
      GRAFT_RETURN_IF_ERROR(add(key, view));
    }
  } else {
    for (const std::string& key : *only) {
      const auto it = file.tensors().find(key);
      if (it == file.tensors().end()) {
        return FileError(path, absl::StrCat("lacks the tensor \"", key,
                                            "\" that the index promises"));
      }
      GRAFT_RETURN_IF_ERROR(add(key, it->second));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

std::string ModelFiles::Sha256() const {
  class Sha256 hash;
  for (const auto& [name, view] : tensors_) {
    hash.Update(absl::StrCat(name, "\n", TensorDtypeName(view.dtype), "\n",
                             absl::StrJoin(view.shape, ","), "\n"));
    hash.Update(view.bytes.data(), view.bytes.size());
  }
  return hash.HexDigest();
}

}  // namespace graft

// Lets the parity tests look inside the engine: reads one JSON object (a job)
// per line on standard input and answers each with one line on standard output,
// {"ok": ...} or {"error": "..."}. Tensors go through safetensors files: "in"
// is read, "out" is written.
//
//   {"op": "tokens", "model": DIR, "texts": [...]}
//       -> {"ok": [[ids], ...]}
//   {"op": "text_embedding", "text": T, "out": F}         "embedding"
//   {"op": "unet_step", "in": F, "timestep": T, "out": F} "sample", "text" ->
//                                                         "sample"
//   {"op": "vae_decode", "in": F, "out": F}               "latents" -> "image"
//   {"op": "image", "params": {...}, "out": F}            "rgb" [h, w, 3]
//   {"op": "weights", "out": F}        all weights of U-Net and text encoder
//   {"op": "digest"}                   -> {"ok": SHA-256 of the same}
//   {"op": "noise", "scheduler": F, "seed": N, "shape": [...], "out": F}
//   "noise"
//   {"op": "schedules", "scheduler": F, "sampler": S, "steps": [...], "in": F}
//       -> {"ok": [{"timesteps": [...], "latents": [...]} or {"error": ...}]}
//
// The six in the middle also take "model", "dtype" (default "float32") and
// "adapters": [{"path": F, "unet_weight": W, "text_encoder_weight": W}, ...],
// where a PEFT folder may have a "component"; the last three of them "restore"
// (default "undo_log"), and they run the engine through its public interface,
// where the others run its parts.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <atomic>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/adapters/adapter_parser.h"
#include "server/adapters/adapter_source.h"
#include "server/common/status_macros.h"
#include "server/engine/models/base_model.h"
#include "server/engine/pipeline/latent_generation.h"
#include "server/engine/pipeline/sampler.h"
#include "server/engine/torch_engine.h"
#include "server/engine/torch_status.h"
#include "server/engine/weights/adapter_switcher.h"
#include "server/engine/weights/prepared_weights.h"
#include "server/engine/weights/switch_pass.h"
#include "server/safetensors/safetensors_file.h"
#include "server/tokenizer/clip_tokenizer.h"
#include "tests/parity/tensor_file.h"

namespace graft {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::pair<at::ScalarType, ComputeDtype>> ParseDtype(
    const std::string& name) {
  if (name == "float32") return {{at::kFloat, ComputeDtype::kFloat32}};
  if (name == "float16") return {{at::kHalf, ComputeDtype::kFloat16}};
  if (name == "bfloat16") return {{at::kBFloat16, ComputeDtype::kBFloat16}};
  return absl::InvalidArgumentError(absl::StrCat("dtype \"", name, "\""));
}

absl::StatusOr<RestoreMode> ParseRestore(const std::string& name) {
  if (name == "undo_log") return RestoreMode::kUndoLog;
  if (name == "backup") return RestoreMode::kBackup;
  return absl::InvalidArgumentError(absl::StrCat("restore \"", name, "\""));
}

absl::StatusOr<at::Tensor> ReadTensor(const std::string& path,
                                      const std::string& name) {
  GRAFT_ASSIGN_OR_RETURN(Tensors tensors, ReadTensors(path));
  if (tensors.count(name) == 0) {
    return absl::NotFoundError(absl::StrCat(path, ": no tensor ", name));
  }
  return tensors[name];
}

// As AdapterStore reads a file or a PEFT folder.
absl::StatusOr<AdapterWeights> ReadAdapter(const Json& job,
                                           const ModuleTable& modules) {
  const std::filesystem::path path = job.at("path").get<std::string>();
  const AdapterSource source({.directory = path.parent_path()});
  const std::string name = path.filename();
  GRAFT_ASSIGN_OR_RETURN(const AdapterFile content, source.Read(name));
  GRAFT_ASSIGN_OR_RETURN(
      const SafetensorsFile file,
      SafetensorsFile::Parse(content.owner, content.bytes, name,
                             SafetensorsFile::Limits()));
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<AdapterParser> parser,
                         AdapterParser::Create(&modules));
  AdapterParser::Options options;
  options.component = job.value("component", "");
  options.peft_config = content.peft_config;
  GRAFT_ASSIGN_OR_RETURN(ParsedAdapter parsed,
                         parser->Parse(file, name, content.sha256, options));
  return std::move(parsed.weights);
}

// The set that the job names. `prepare` makes a PreparedAdapterPtr of
// AdapterWeights.
template <typename Prepare>
absl::StatusOr<AdapterSet> LoadAdapters(const Json& job,
                                        const ModuleTable& modules,
                                        Prepare prepare) {
  AdapterSet set;
  for (const Json& adapter : job.value("adapters", Json::array())) {
    GRAFT_ASSIGN_OR_RETURN(const AdapterWeights weights,
                           ReadAdapter(adapter, modules));
    GRAFT_ASSIGN_OR_RETURN(PreparedAdapterPtr prepared, prepare(weights));
    set.push_back({std::move(prepared), adapter.at("unet_weight"),
                   adapter.at("text_encoder_weight")});
  }
  return set;
}

// The parts of one engine, as torch_engine.cc puts them together.
class Parts {
 public:
  explicit Parts(BaseModel model)
      : model_(std::move(model)),
        switcher_(model_.store.get(), RestoreMode::kUndoLog,
                  MakeSwitchPass(at::kCPU)) {}

  const BaseModel& model() const { return model_; }

  absl::Status SwitchTo(const Json& job) {
    GRAFT_ASSIGN_OR_RETURN(
        const AdapterSet set,
        LoadAdapters(job, model_.modules,
                     [this](const AdapterWeights& weights)
                         -> absl::StatusOr<PreparedAdapterPtr> {
                       return PreparedWeights::Create(weights, *model_.store,
                                                      adapter_bytes_);
                     }));
    return switcher_.SwitchTo(set).status();
  }

 private:
  const BaseModel model_;
  const std::shared_ptr<std::atomic<int64_t>> adapter_bytes_ =
      std::make_shared<std::atomic<int64_t>>(0);
  AdapterSwitcher switcher_;
};

// ---- Samplers ---------------------------------------------------------------

absl::StatusOr<std::unique_ptr<Sampler>> MakeSampler(
    const std::string& scheduler, const std::string& name, int steps) {
  const Samplers samplers = MakeSamplers(scheduler);
  const auto& factory = samplers.at(name);
  if (!factory.ok()) return factory.status();
  return (*factory)->Create(steps);
}

// Walks `noise` to the end with a stand-in for the U-Net: bounded, and it
// depends on what the sampler feeds it and on the timestep.
absl::StatusOr<Json> RunSampler(const std::string& scheduler,
                                const std::string& name, int steps,
                                const at::Tensor& noise) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<Sampler> sampler,
                         MakeSampler(scheduler, name, steps));
  at::Generator generator = at::detail::createCPUGenerator(0);
  std::vector<double> timesteps;
  at::Tensor latents = noise * sampler->init_noise_sigma();
  while (sampler->step() < sampler->num_steps()) {
    const double t = sampler->timestep();
    timesteps.push_back(t);
    const at::Tensor output =
        at::sin(sampler->ScaleModelInput(latents) + 0.01 * t);
    latents = sampler->Step(output, latents, generator);
  }
  // Numbers that are not finite become null.
  return Json{{"timesteps", timesteps},
              {"latents", std::vector<float>(
                              latents.data_ptr<float>(),
                              latents.data_ptr<float>() + latents.numel())}};
}

absl::StatusOr<Json> Schedules(const Json& job) {
  GRAFT_ASSIGN_OR_RETURN(const at::Tensor noise,
                         ReadTensor(job.at("in"), "noise"));
  Json runs = Json::array();
  for (const int steps : job.at("steps")) {
    const absl::StatusOr<Json> run =
        RunSampler(job.at("scheduler"), job.at("sampler"), steps, noise);
    runs.push_back(run.ok() ? *run : Json{{"error", run.status().ToString()}});
  }
  return runs;
}

absl::StatusOr<Json> Noise(const Json& job) {
  GRAFT_ASSIGN_OR_RETURN(std::unique_ptr<Sampler> sampler,
                         MakeSampler(job.at("scheduler"), "ddim", 1));
  const std::vector<int64_t> shape = job.at("shape");
  GenerationParams params;
  params.seed = job.at("seed");
  TextConditioning text;
  text.positive = at::zeros({1, 1, 1});
  const LatentGeneration generation(params, text, std::move(sampler), shape,
                                    at::kCPU);
  GRAFT_RETURN_IF_ERROR(
      WriteTensors({{"noise", generation.latents()}}, job.at("out")));
  return Json(true);
}

// ---- Networks ---------------------------------------------------------------

absl::StatusOr<Json> Tokens(const Json& job) {
  GRAFT_ASSIGN_OR_RETURN(
      const std::unique_ptr<ClipTokenizer> tokenizer,
      ClipTokenizer::Load(
          absl::StrCat(job.at("model").get<std::string>(), "/tokenizer")));
  Json ids = Json::array();
  for (const std::string text : job.at("texts")) {
    ids.push_back(tokenizer->Encode(text).ids);
  }
  return ids;
}

absl::StatusOr<Tensors> TextEmbedding(const BaseModel& model, const Json& job) {
  const std::vector<int32_t> ids =
      model.tokenizer->Encode(job.at("text").get<std::string>()).ids;
  const at::Tensor input =
      at::tensor(at::ArrayRef<int32_t>(ids)).to(at::kLong).unsqueeze(0);
  return Tensors{{"embedding", model.text_model->Forward(input)}};
}

absl::StatusOr<Tensors> UnetStep(const BaseModel& model, const Json& job) {
  GRAFT_ASSIGN_OR_RETURN(const at::Tensor sample,
                         ReadTensor(job.at("in"), "sample"));
  GRAFT_ASSIGN_OR_RETURN(const at::Tensor text,
                         ReadTensor(job.at("in"), "text"));
  const std::vector<double> timesteps(sample.size(0), job.at("timestep"));
  return Tensors{
      {"sample", model.unet->Forward(
                     sample,
                     std::vector<double>(static_cast<size_t>(sample.size(0)),
                                         job.at("timestep").get<double>()),
                     text.to(model.store->dtype()))}};
}

absl::StatusOr<Tensors> VaeDecode(const BaseModel& model, const Json& job) {
  GRAFT_ASSIGN_OR_RETURN(const at::Tensor latents,
                         ReadTensor(job.at("in"), "latents"));
  return Tensors{{"image", model.vae->Forward(latents)}};
}

// ---- The engine as a whole --------------------------------------------------

GenerationParams ParseParams(const Json& json) {
  GenerationParams params;
  params.prompt = json.at("prompt");
  params.negative_prompt = json.at("negative_prompt");
  params.width = json.at("width");
  params.height = json.at("height");
  params.steps = json.at("steps");
  params.guidance_scale = json.at("guidance_scale");
  params.sampler = json.at("sampler");
  params.seed = json.at("seed");
  return params;
}

absl::StatusOr<Json> MakeImage(Engine& engine, const Json& job) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<Generation> generation,
                         engine.Begin(ParseParams(job.at("params"))));
  Generation* const batch[] = {generation.get()};
  while (generation->steps_done() < generation->steps_total()) {
    GRAFT_RETURN_IF_ERROR(engine.Step(batch));
  }
  GRAFT_ASSIGN_OR_RETURN(const Image image, engine.Finish(*generation));
  const at::Tensor rgb = at::tensor(at::ArrayRef<uint8_t>(image.rgb), at::kByte)
                             .view({image.height, image.width, 3});
  GRAFT_RETURN_IF_ERROR(WriteTensors({{"rgb", rgb}}, job.at("out")));
  return Json(true);
}

absl::StatusOr<Json> ExportWeights(Engine& engine, const Json& job) {
  GRAFT_RETURN_IF_ERROR(
      engine.ExportWeights(job.at("out").get<std::string>(), /*metadata=*/{}));
  return Json(true);
}

absl::StatusOr<Json> Digest(Engine& engine, const Json&) {
  return Json(engine.WeightsSha256());
}

// ---- Jobs -------------------------------------------------------------------

class Probe {
 public:
  absl::StatusOr<Json> Run(const Json& job) {
    const std::string op = job.at("op");
    if (op == "tokens") return Tokens(job);
    if (op == "noise") return Noise(job);
    if (op == "schedules") return Schedules(job);
    if (const auto it = kOnEngine.find(op); it != kOnEngine.end()) {
      GRAFT_ASSIGN_OR_RETURN(Engine* const engine, GetEngine(job));
      GRAFT_RETURN_IF_ERROR(Switch(*engine, job));
      return it->second(*engine, job);
    }
    if (const auto it = kOnParts.find(op); it != kOnParts.end()) {
      GRAFT_ASSIGN_OR_RETURN(Parts* const parts, GetParts(job));
      GRAFT_RETURN_IF_ERROR(parts->SwitchTo(job));
      GRAFT_ASSIGN_OR_RETURN(const Tensors result,
                             it->second(parts->model(), job));
      GRAFT_RETURN_IF_ERROR(WriteTensors(result, job.at("out")));
      return Json(true);
    }
    return absl::InvalidArgumentError(absl::StrCat("unknown op \"", op, "\""));
  }

 private:
  using OnParts = absl::StatusOr<Tensors> (*)(const BaseModel&, const Json&);
  inline static const std::map<std::string, OnParts> kOnParts = {
      {"text_embedding", TextEmbedding},
      {"unet_step", UnetStep},
      {"vae_decode", VaeDecode},
  };
  using OnEngine = absl::StatusOr<Json> (*)(Engine&, const Json&);
  inline static const std::map<std::string, OnEngine> kOnEngine = {
      {"image", MakeImage},
      {"weights", ExportWeights},
      {"digest", Digest},
  };

  static absl::Status Switch(Engine& engine, const Json& job) {
    GRAFT_ASSIGN_OR_RETURN(
        const AdapterSet set,
        LoadAdapters(job, engine.modules(), [&](const AdapterWeights& weights) {
          return engine.Prepare(weights);
        }));
    return engine.SwitchAdapters(set).status();
  }

  static std::string Key(const Json& job) {
    return absl::StrJoin({job.at("model").get<std::string>(),
                          job.value("dtype", std::string("float32")),
                          job.value("restore", std::string("undo_log"))},
                         " ");
  }

  absl::StatusOr<Parts*> GetParts(const Json& job) {
    std::unique_ptr<Parts>& parts = parts_[Key(job)];
    if (parts == nullptr) {
      GRAFT_ASSIGN_OR_RETURN(const auto dtype,
                             ParseDtype(job.value("dtype", "float32")));
      GRAFT_ASSIGN_OR_RETURN(
          BaseModel model,
          LoadBaseModel(job.at("model"), at::kCPU, dtype.first));
      parts = std::make_unique<Parts>(std::move(model));
    }
    return parts.get();
  }

  absl::StatusOr<Engine*> GetEngine(const Json& job) {
    std::unique_ptr<Engine>& engine = engines_[Key(job)];
    if (engine == nullptr) {
      GRAFT_ASSIGN_OR_RETURN(const auto dtype,
                             ParseDtype(job.value("dtype", "float32")));
      EngineOptions options;
      options.model_dir = job.at("model");
      options.device = "cpu";
      options.dtype = dtype.second;
      GRAFT_ASSIGN_OR_RETURN(options.restore,
                             ParseRestore(job.value("restore", "undo_log")));
      options.threads = at::get_num_threads();
      GRAFT_ASSIGN_OR_RETURN(engine, CreateTorchEngine(options));
    }
    return engine.get();
  }

  // By Key().
  std::map<std::string, std::unique_ptr<Parts>> parts_;
  std::map<std::string, std::unique_ptr<Engine>> engines_;
};

Json Answer(Probe& probe, const std::string& line) {
  const absl::StatusOr<Json> result = CatchTorchErrors([&] {
    const c10::InferenceMode inference;
    return probe.Run(Json::parse(line));
  });
  if (!result.ok()) return {{"error", result.status().ToString()}};
  return {{"ok", *result}};
}

}  // namespace
}  // namespace graft

int main() {
  graft::Probe probe;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << graft::Answer(probe, line).dump() << std::endl;
  }
  return 0;
}

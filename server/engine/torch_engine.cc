#include "server/engine/torch_engine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/headeronly/version.h>

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "server/engine/device.h"
#include "server/engine/models/base_model.h"
#include "server/engine/models/config_reader.h"
#include "server/engine/pipeline/latent_generation.h"
#include "server/engine/pipeline/sampler.h"
#include "server/engine/torch_status.h"
#include "server/engine/weights/adapter_switcher.h"
#include "server/engine/weights/prepared_lora.h"

namespace graft {
namespace {

// The parameters that adapters can reach: those of U-Net and text encoder.
bool IsAdaptable(absl::string_view name) {
  return !absl::StartsWith(name, "vae.");
}

class TorchEngine : public Engine {
 public:
  TorchEngine(BaseModel model, Samplers samplers, EngineInfo info)
      : model_(std::move(model)),
        samplers_(std::move(samplers)),
        info_(std::move(info)),
        adapter_bytes_(std::make_shared<std::atomic<int64_t>>(0)),
        switcher_(model_.store.get()) {}

  const EngineInfo& info() const override { return info_; }
  const ModuleTable& modules() const override { return model_.modules; }
  MemoryUsage memory() const override {
    return {model_.store->total_bytes(), switcher_.restore_bytes(),
            adapter_bytes_->load()};
  }

  absl::StatusOr<PreparedAdapterPtr> Prepare(
      const AdapterWeights& weights) const override {
    return CatchTorchErrors([&]() -> absl::StatusOr<PreparedAdapterPtr> {
      const c10::InferenceMode inference;
      GRAFT_ASSIGN_OR_RETURN(
          PreparedAdapterPtr prepared,
          PreparedLora::Create(weights, *model_.store, adapter_bytes_));
      return prepared;
    });
  }

  absl::StatusOr<SwitchReport> SwitchAdapters(const AdapterSet& next) override {
    return CatchTorchErrors([&]() -> absl::StatusOr<SwitchReport> {
      const c10::InferenceMode inference;
      GRAFT_ASSIGN_OR_RETURN(const SwitchReport report,
                             switcher_.SwitchTo(next));
      if (report.changed) conditioning_.reset();
      return report;
    });
  }

  absl::StatusOr<std::unique_ptr<Generation>> Begin(
      const GenerationParams& params) override {
    return CatchTorchErrors([&] {
      const c10::InferenceMode inference;
      return BeginGeneration(params);
    });
  }

  absl::Status Step(absl::Span<Generation* const> batch) override {
    return CatchTorchErrors([&]() -> absl::Status {
      const c10::InferenceMode inference;
      for (Generation* const generation : batch) {
        GRAFT_RETURN_IF_ERROR(
            static_cast<LatentGeneration*>(generation)->Step(*model_.unet));
      }
      return absl::OkStatus();
    });
  }

  absl::StatusOr<Image> Finish(Generation& generation) override {
    return CatchTorchErrors([&]() -> absl::StatusOr<Image> {
      const c10::InferenceMode inference;
      return Decode(static_cast<LatentGeneration&>(generation).latents());
    });
  }

  std::string WeightsSha256() const override;
  std::string AddressesSha256() const override;

 private:
  // The prompts as last encoded. The same for every image of a request, so it
  // is kept; a switch drops it, as adapters can change the text encoder.
  struct CachedConditioning {
    std::string prompt;
    std::optional<std::string> negative_prompt;
    TextConditioning conditioning;
  };

  absl::StatusOr<std::unique_ptr<Generation>> BeginGeneration(
      const GenerationParams& params);
  const TextConditioning& Condition(const GenerationParams& params);
  at::Tensor EncodeText(const std::string& text, int* truncated) const;
  absl::StatusOr<Image> Decode(const at::Tensor& latents) const;

  const BaseModel model_;
  const Samplers samplers_;
  const EngineInfo info_;
  const std::shared_ptr<std::atomic<int64_t>> adapter_bytes_;
  AdapterSwitcher switcher_;
  std::optional<CachedConditioning> conditioning_;
};

at::Tensor TorchEngine::EncodeText(const std::string& text,
                                   int* truncated) const {
  const ClipTokenizer::Encoding encoding = model_.tokenizer->Encode(text);
  if (truncated != nullptr) *truncated = encoding.num_truncated;
  const at::Tensor ids =
      at::tensor(at::ArrayRef<int32_t>(encoding.ids), at::kInt)
          .to(model_.store->device(), at::kLong)
          .unsqueeze(0);
  return model_.text_model->Forward(ids);
}

const TextConditioning& TorchEngine::Condition(const GenerationParams& params) {
  std::optional<std::string> negative;
  if (params.guidance_scale > 1) negative = params.negative_prompt;
  if (!conditioning_.has_value() || conditioning_->prompt != params.prompt ||
      conditioning_->negative_prompt != negative) {
    CachedConditioning cached{params.prompt, negative, {}};
    cached.conditioning.positive =
        EncodeText(params.prompt, &cached.conditioning.truncated_tokens);
    if (negative.has_value()) {
      cached.conditioning.negative = EncodeText(*negative, nullptr);
    }
    conditioning_ = std::move(cached);
  }
  return conditioning_->conditioning;
}

absl::StatusOr<std::unique_ptr<Generation>> TorchEngine::BeginGeneration(
    const GenerationParams& params) {
  const auto sampler_factory = samplers_.find(params.sampler);
  if (sampler_factory == samplers_.end()) {
    return InvalidField("sampler",
                        absl::StrCat("\"", params.sampler, "\" is none of ",
                                     absl::StrJoin(SamplerNames(), ", ")));
  }
  if (!sampler_factory->second.ok()) return sampler_factory->second.status();
  GRAFT_ASSIGN_OR_RETURN(std::unique_ptr<Sampler> sampler,
                         (*sampler_factory->second)->Create(params.steps));
  const int64_t scale = model_.vae_config.scale();
  if (params.width <= 0 || params.height <= 0 || params.width % scale != 0 ||
      params.height % scale != 0) {
    return InvalidField(
        "width", absl::StrCat("and height must be multiples of ", scale));
  }
  return std::make_unique<LatentGeneration>(
      Condition(params), params.guidance_scale, std::move(sampler), params.seed,
      at::IntArrayRef({1, model_.unet_config.in_channels, params.height / scale,
                       params.width / scale}),
      model_.store->device());
}

absl::StatusOr<Image> TorchEngine::Decode(const at::Tensor& latents) const {
  const at::Tensor decoded = model_.vae->Forward(latents).to(at::kFloat);
  if (!decoded.isfinite().all().item<bool>()) {
    return Error(ErrorReason::kNonFiniteLatents,
                 "the VAE decoded the latents to values that are not finite; "
                 "use smaller adapter weights or a wider --dtype");
  }
  const at::Tensor pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255)
                                .round()
                                .to(at::kByte)
                                .squeeze(0)
                                .permute({1, 2, 0})
                                .contiguous()
                                .to(at::kCPU);
  Image image;
  image.height = static_cast<int>(pixels.size(0));
  image.width = static_cast<int>(pixels.size(1));
  image.rgb.assign(pixels.data_ptr<uint8_t>(),
                   pixels.data_ptr<uint8_t>() + pixels.numel());
  return image;
}

std::string TorchEngine::WeightsSha256() const {
  Sha256 hash;
  for (const auto& [name, tensor] : model_.store->tensors()) {
    if (!IsAdaptable(name)) continue;
    const at::Tensor host = tensor.to(at::kCPU);
    hash.Update(name);
    hash.Update(host.data_ptr(), host.nbytes());
  }
  return hash.HexDigest();
}

std::string TorchEngine::AddressesSha256() const {
  Sha256 hash;
  for (const auto& [name, tensor] : model_.store->tensors()) {
    const void* const address = tensor.data_ptr();
    hash.Update(&address, sizeof(address));
  }
  return hash.HexDigest();
}

// ---- Loading ----------------------------------------------------------------

absl::StatusOr<EngineInfo> MakeInfo(const BaseModel& model,
                                    const Samplers& samplers,
                                    const DeviceChoice& device) {
  EngineInfo info;
  info.model_name = model.name;
  info.family = model.modules.family;
  info.device = device.device.str();
  info.device_name = device.name;
  info.dtype = DtypeName(device.dtype);
  info.restore = "backup";
  info.base_sha256 = model.sha256;
  const int side = static_cast<int>(model.unet_config.sample_size *
                                    model.vae_config.scale());
  info.default_width = side;
  info.default_height = side;
  GRAFT_ASSIGN_OR_RETURN(ConfigReader scheduler,
                         ConfigReader::Open(model.scheduler_config_path));
  info.prediction_type = scheduler.String("prediction_type", "epsilon");
  info.default_sampler = DefaultSampler(scheduler.String("_class_name", ""));
  const auto sampler = samplers.find(info.default_sampler);
  if (!sampler->second.ok()) return sampler->second.status();
  info.torch_version = TORCH_VERSION;
  return info;
}

absl::StatusOr<std::unique_ptr<Engine>> Load(const EngineOptions& options) {
  const c10::InferenceMode inference;
  at::set_num_threads(
      options.threads > 0
          ? options.threads
          : static_cast<int>(std::thread::hardware_concurrency()));
  GRAFT_ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(options));
  GRAFT_ASSIGN_OR_RETURN(
      BaseModel model,
      LoadBaseModel(options.model_dir, device.device, device.dtype));
  Samplers samplers = MakeSamplers(model.scheduler_config_path);
  for (const auto& [name, sampler] : samplers) {
    if (!sampler.ok()) {
      GRAFT_LOG(kWarning, "sampler not available with this model",
                {{"sampler", name},
                 {"why", std::string(sampler.status().message())}});
    }
  }
  GRAFT_ASSIGN_OR_RETURN(EngineInfo info, MakeInfo(model, samplers, device));
  return std::make_unique<TorchEngine>(std::move(model), std::move(samplers),
                                       std::move(info));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateTorchEngine(
    const EngineOptions& options) {
  return CatchTorchErrors([&] { return Load(options); });
}

}  // namespace graft

#include "server/engine/torch_engine.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/common/error.h"
#include "server/common/log.h"
#include "server/common/processors.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"
#include "server/engine/compute_pool.h"
#include "server/engine/cuda/cuda_kernels.h"
#include "server/engine/device.h"
#include "server/engine/device_lost.h"
#include "server/engine/models/base_model.h"
#include "server/engine/models/config_reader.h"
#include "server/engine/models/model_files.h"
#include "server/engine/pipeline/latent_generation.h"
#include "server/engine/pipeline/latent_preview.h"
#include "server/engine/pipeline/sampler.h"
#include "server/engine/torch_status.h"
#include "server/engine/weights/adapter_switcher.h"
#include "server/engine/weights/prepared_weights.h"
#include "server/engine/weights/switch_pass.h"
#include "server/safetensors/safetensors_writer.h"

namespace graft {
namespace {

// The parameters that adapters can reach: those of U-Net and text encoder.
bool IsAdaptable(absl::string_view name) {
  return !absl::StartsWith(name, "vae.");
}

// Texts whose encodings are kept: the images of a request share them, and
// requests that take turns come back to them. Some 100 KB each.
constexpr size_t kMaxEncodedTexts = 64;

TensorDtype ToTensorDtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return TensorDtype::kF16;
    case at::kBFloat16:
      return TensorDtype::kBF16;
    default:
      return TensorDtype::kF32;
  }
}

class TorchEngine : public Engine {
 public:
  TorchEngine(BaseModel model, Samplers samplers, EngineInfo info,
              const EngineOptions& options, SwitchFault fault)
      : model_(std::move(model)),
        samplers_(std::move(samplers)),
        info_(std::move(info)),
        model_dir_(options.model_dir),
        adapter_bytes_(std::make_shared<std::atomic<int64_t>>(0)),
        switcher_(model_.store.get(), options.restore,
                  MakeSwitchPass(model_.store->device())),
        preview_(*model_.vae, model_.vae_config.latent_channels,
                 model_.vae_config.scale(), model_.store->device()),
        batch_threads_(
            model_.store->device().is_cpu()
                ? std::make_unique<ComputePool>(at::get_num_threads())
                : nullptr) {
    switcher_.SetFaultForTesting(std::move(fault));
  }

  const EngineInfo& info() const override { return info_; }
  const ModuleTable& modules() const override { return model_.modules; }
  MemoryUsage memory() const override {
    MemoryUsage memory{
        .base_bytes = model_.store->total_bytes(),
        .restore_bytes = switcher_.restore_bytes(),
        .restore_reserved_bytes = switcher_.restore_reserved_bytes(),
        .adapter_bytes = adapter_bytes_->load()};
    if (model_.store->device().is_cuda()) {
      const CudaMemory device = CudaMemoryOf(model_.store->device());
      memory.device_used_bytes = device.used;
      memory.device_total_bytes = device.total;
    }
    return memory;
  }

  absl::StatusOr<PreparedAdapterPtr> Prepare(
      const AdapterWeights& weights) const override {
    return CatchTorchErrors([&]() -> absl::StatusOr<PreparedAdapterPtr> {
      const c10::InferenceMode inference;
      GRAFT_ASSIGN_OR_RETURN(
          PreparedAdapterPtr prepared,
          PreparedWeights::Create(weights, *model_.store, adapter_bytes_));
      return prepared;
    });
  }

  absl::StatusOr<SwitchReport> SwitchAdapters(const AdapterSet& next) override {
    return CatchTorchErrors([&]() -> absl::StatusOr<SwitchReport> {
      const c10::InferenceMode inference;
      return switcher_.SwitchTo(next);
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
      return StepBatch(batch);
    });
  }

  absl::StatusOr<Image> Preview(const Generation& generation) override {
    return CatchTorchErrors([&]() -> absl::StatusOr<Image> {
      const c10::InferenceMode inference;
      return preview_.Render(
          static_cast<const LatentGeneration&>(generation).expected_latents());
    });
  }

  absl::StatusOr<Image> Finish(Generation& generation) override {
    return CatchTorchErrors([&]() -> absl::StatusOr<Image> {
      const c10::InferenceMode inference;
      return Decode(static_cast<LatentGeneration&>(generation).latents());
    });
  }

  absl::StatusOr<VerifyReport> VerifyBaseWeights(bool repair) override {
    return CatchTorchErrors([&] {
      const c10::InferenceMode inference;
      return Verify(repair);
    });
  }

  absl::Status ExportWeights(
      const std::string& path,
      const std::map<std::string, std::string>& metadata) const override {
    return CatchTorchErrors([&] {
      const c10::InferenceMode inference;
      return Export(path, metadata);
    });
  }

  std::string WeightsSha256() const override;
  std::string AddressesSha256() const override;

  // Draws what nobody sees, so that no request waits for what a CUDA device
  // does but once: its libraries are loaded, handles and workspaces made.
  // Errors as for a request of the default size.
  absl::Status WarmUp();

 private:
  // One text as encoded with one state of the text encoder's weights.
  struct EncodedText {
    std::string text;
    std::string text_encoder_state;
    at::Tensor embedding;
    int truncated_tokens = 0;
  };

  absl::StatusOr<std::unique_ptr<Generation>> BeginGeneration(
      const GenerationParams& params);
  absl::Status StepBatch(absl::Span<Generation* const> batch);
  TextConditioning Condition(const GenerationParams& params);
  EncodedText Encode(const std::string& text);
  absl::StatusOr<Image> Decode(const at::Tensor& latents) const;
  absl::StatusOr<VerifyReport> Verify(bool repair);
  std::vector<std::string> DifferingParameters() const;
  absl::Status Export(const std::string& path,
                      const std::map<std::string, std::string>& metadata) const;

  const BaseModel model_;
  const Samplers samplers_;
  const EngineInfo info_;
  const std::string model_dir_;
  const std::shared_ptr<std::atomic<int64_t>> adapter_bytes_;
  AdapterSwitcher switcher_;
  const LatentPreview preview_;
  const std::unique_ptr<ComputePool> batch_threads_;  // null: not on a CPU
  std::list<EncodedText> encoded_texts_;              // the latest first
};

absl::Status TorchEngine::WarmUp() {
  absl::Status status = CatchTorchErrors([&]() -> absl::Status {
    const c10::InferenceMode inference;
    GenerationParams params;
    params.width = info_.default_width;
    params.height = info_.default_height;
    params.sampler = info_.default_sampler;
    params.guidance_scale = 2;
    params.steps = 1;
    GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<Generation> generation,
                           BeginGeneration(params));
    Generation* const raw = generation.get();
    GRAFT_RETURN_IF_ERROR(StepBatch({&raw, 1}));
    // Waits for the device. Whether one step makes a picture does not matter.
    const auto& latents = static_cast<LatentGeneration*>(raw)->latents();
    model_.vae->Forward(latents).sum().item<float>();
    return absl::OkStatus();
  });
  // Smaller images, or other ones, may well be possible.
  if (!status.ok() && !IsDeviceLost(status)) {
    GRAFT_LOG(kWarning, "the first image, to warm up, could not be made",
              {{"error", std::string(status.message())}});
    return absl::OkStatus();
  }
  return status;
}

TorchEngine::EncodedText TorchEngine::Encode(const std::string& text) {
  const std::string& state = switcher_.text_encoder_state();
  const auto known = std::find_if(encoded_texts_.begin(), encoded_texts_.end(),
                                  [&](const EncodedText& encoded) {
                                    return encoded.text == text &&
                                           encoded.text_encoder_state == state;
                                  });
  if (known != encoded_texts_.end()) {
    encoded_texts_.splice(encoded_texts_.begin(), encoded_texts_, known);
    return encoded_texts_.front();
  }
  const ClipTokenizer::Encoding encoding = model_.tokenizer->Encode(text);
  const at::Tensor ids =
      at::tensor(at::ArrayRef<int32_t>(encoding.ids), at::kInt)
          .to(model_.store->device(), at::kLong)
          .unsqueeze(0);
  encoded_texts_.push_front(
      {text, state, model_.text_model->Forward(ids), encoding.num_truncated});
  if (encoded_texts_.size() > kMaxEncodedTexts) encoded_texts_.pop_back();
  return encoded_texts_.front();
}

TextConditioning TorchEngine::Condition(const GenerationParams& params) {
  TextConditioning conditioning;
  const EncodedText positive = Encode(params.prompt);
  conditioning.positive = positive.embedding;
  conditioning.truncated_tokens = positive.truncated_tokens;
  conditioning.text_encoder_state = positive.text_encoder_state;
  if (params.guidance_scale > 1) {
    conditioning.negative = Encode(params.negative_prompt).embedding;
  }
  return conditioning;
}

absl::Status TorchEngine::StepBatch(absl::Span<Generation* const> batch) {
  std::vector<LatentGeneration*> latents;
  for (Generation* const generation : batch) {
    auto* const latent = static_cast<LatentGeneration*>(generation);
    if (latent->text().text_encoder_state != switcher_.text_encoder_state()) {
      latent->set_text(Condition(latent->params()));
    }
    latents.push_back(latent);
  }
  return DenoiseStep(*model_.unet, latents, batch_threads_.get());
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
      params, Condition(params), std::move(sampler),
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
  return ToImage(decoded);
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

// ---- Verifying and exporting ------------------------------------------------

std::vector<std::string> TorchEngine::DifferingParameters() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : model_.store->tensors()) {
    if (!switcher_.IsPristine(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<VerifyReport> TorchEngine::Verify(bool repair) {
  const auto start = std::chrono::steady_clock::now();
  GRAFT_RETURN_IF_ERROR(switcher_.ForceBase());
  VerifyReport report;
  report.parameters = static_cast<int64_t>(model_.store->tensors().size());
  report.differing = report.unrepaired = DifferingParameters();
  if (repair && !report.differing.empty()) {
    GRAFT_ASSIGN_OR_RETURN(const ModelFiles files,
                           ModelFiles::Open(model_dir_));
    for (const std::string& name : report.differing) {
      const auto view = files.tensors().find(name);
      if (view != files.tensors().end()) {
        model_.store->Overwrite(name, view->second);
      }
    }
    report.unrepaired = DifferingParameters();
    // Encodings may have been made with what was wrong.
    encoded_texts_.clear();
  }
  report.duration = absl::FromChrono(std::chrono::steady_clock::now() - start);
  return report;
}

absl::Status TorchEngine::Export(
    const std::string& path,
    const std::map<std::string, std::string>& metadata) const {
  std::vector<SafetensorsWriter::Entry> entries;
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : model_.store->tensors()) {
    if (!IsAdaptable(name)) continue;
    entries.push_back(
        {name, ToTensorDtype(tensor.scalar_type()), tensor.sizes().vec()});
    tensors.push_back(tensor);
  }
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                         SafetensorsWriter::Create(path, entries, metadata));
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor host = tensor.to(at::kCPU);
    GRAFT_RETURN_IF_ERROR(writer->Append(
        {static_cast<const uint8_t*>(host.const_data_ptr()), host.nbytes()}));
  }
  return writer->Finish();
}

// ---- Loading ----------------------------------------------------------------

absl::StatusOr<EngineInfo> MakeInfo(const BaseModel& model,
                                    const Samplers& samplers,
                                    const DeviceChoice& device,
                                    RestoreMode restore) {
  EngineInfo info;
  info.model_name = model.name;
  info.family = model.modules.family;
  info.device = device.device.str();
  info.device_name = device.name;
  info.dtype = DtypeName(device.dtype);
  info.restore = restore == RestoreMode::kBackup ? "backup" : "undo_log";
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

absl::StatusOr<std::unique_ptr<Engine>> Load(const EngineOptions& options,
                                             SwitchFault fault) {
  const c10::InferenceMode inference;
  at::set_num_threads(options.threads > 0 ? options.threads
                                          : UsableProcessors());
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
  GRAFT_ASSIGN_OR_RETURN(EngineInfo info,
                         MakeInfo(model, samplers, device, options.restore));
  auto engine =
      std::make_unique<TorchEngine>(std::move(model), std::move(samplers),
                                    std::move(info), options, std::move(fault));
  if (device.device.is_cuda()) GRAFT_RETURN_IF_ERROR(engine->WarmUp());
  return engine;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateTorchEngine(
    const EngineOptions& options) {
  return CreateTorchEngineForTesting(options, nullptr);
}

absl::StatusOr<std::unique_ptr<Engine>> CreateTorchEngineForTesting(
    const EngineOptions& options, SwitchFault fault) {
  return CatchTorchErrors([&] { return Load(options, std::move(fault)); });
}

}  // namespace graft

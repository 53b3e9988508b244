#ifndef GRAFT_SERVER_ENGINE_ENGINE_H_
#define GRAFT_SERVER_ENGINE_ENGINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/engine/adapter_weights.h"
#include "server/engine/generation_params.h"
#include "server/engine/module_table.h"
#include "server/image/image.h"

// The engine: one base model resident on one device, switched in place between
// adapter sets, and the recipe that makes images with it. No tensor library, no
// gRPC and no file of a client is visible here.
namespace graft {

// What does not change after load.
struct EngineInfo {
  std::string model_name;  // the folder's name
  BaseFamily family = BaseFamily::kOther;
  std::string device;       // "cpu", "cuda:0"
  std::string device_name;  // as the driver or /proc/cpuinfo tells it
  std::string dtype;        // "float32", "bfloat16", "float16"
  std::string restore;      // "undo_log" or "backup"
  // Digest over the sorted (canonical name, dtype, shape, bytes as stored in
  // the files) of U-Net, text encoder and VAE, whatever the dtype computed in.
  std::string base_sha256;
  int default_width = 512;  // sample_size of the U-Net times the VAE's factor
  int default_height = 512;
  std::string default_sampler;  // of the model's scheduler config
  std::string prediction_type;  // "epsilon" or "v_prediction"
  std::string torch_version;    // "2.11.0"
};

// Bytes, on the device. Any thread may ask.
struct MemoryUsage {
  int64_t base_bytes = 0;     // resident weights
  int64_t restore_bytes = 0;  // what undoing the resident set needs
  // Held for the logs of sets to come, so that a switch need not allocate.
  int64_t restore_reserved_bytes = 0;
  int64_t adapter_bytes = 0;  // prepared adapters
  // Of the whole device, whoever uses it; 0 where that is the host's memory.
  int64_t device_used_bytes = 0;
  int64_t device_total_bytes = 0;
};

// An adapter laid out for switching, on the engine's device. Immutable;
// destroyed on any thread.
class PreparedAdapter {
 public:
  virtual ~PreparedAdapter() = default;
  virtual const std::string& sha256() const = 0;
  virtual int64_t bytes() const = 0;
};
using PreparedAdapterPtr = std::shared_ptr<const PreparedAdapter>;

// One member of an adapter set.
struct WeightedAdapter {
  PreparedAdapterPtr adapter;
  double unet_weight = 1.0;
  double text_encoder_weight = 1.0;
};

// Which adapters are merged, each how strongly. A set: the order has no
// meaning. An adapter (by SHA-256) occurs at most once.
using AdapterSet = std::vector<WeightedAdapter>;

// What Engine::VerifyBaseWeights found. Parameters by canonical name.
struct VerifyReport {
  int64_t parameters = 0;               // compared
  std::vector<std::string> differing;   // from the base as it was loaded
  std::vector<std::string> unrepaired;  // of those, what is still wrong
  absl::Duration duration;
};

struct SwitchReport {
  bool changed = false;     // false: the set was already resident
  absl::Duration duration;  // of the pass over the weights alone; 0 if none
};

// An image on its way. Owned by the caller, used by the engine that made it.
class Generation {
 public:
  virtual ~Generation() = default;
  virtual int steps_done() const = 0;
  virtual int steps_total() const = 0;
  // Tokens of the prompt that the text encoder could not take.
  virtual int truncated_tokens() const = 0;
  // The error of the step that ended it, as NON_FINITE_LATENTS; OK before.
  virtual absl::Status status() const = 0;
};

// Order of calls for one image: SwitchAdapters, Begin, Step until steps_done()
// == steps_total(), Finish; Preview after any step. Each call works with the
// set that is resident at that moment; between two calls the caller may switch
// to other sets for other images and back. Owner-thread-only but for info(),
// modules(), memory() and Prepare(), which are thread-safe.
class Engine {
 public:
  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;
  virtual const ModuleTable& modules() const = 0;
  virtual MemoryUsage memory() const = 0;

  // Checks that every factor is finite, and lays the adapter out for switching.
  // REQUIRES: targets name modules of modules() with shapes that fit (the
  // parser checked). ADAPTER_NON_FINITE names the tensor; GPU_OUT_OF_MEMORY.
  virtual absl::StatusOr<PreparedAdapterPtr> Prepare(
      const AdapterWeights& weights) const = 0;

  // Makes `next` the resident set: W' = round(W0 + sum of weight * D), in
  // place, all targets or none. After an error the former set is resident,
  // exactly; or the base alone, should there be no memory to merge it again.
  // ADAPTER_NON_FINITE when a merged weight would not be finite in the
  // base's dtype, naming the module; INVALID_FIELD for one adapter named twice.
  // BASE_WEIGHTS_DRIFT when what is resident is not what the last switch left
  // there (memory at fault): VerifyBaseWeights repairs it.
  virtual absl::StatusOr<SwitchReport> SwitchAdapters(
      const AdapterSet& next) = 0;

  // Encodes the prompts and draws the initial noise.
  virtual absl::StatusOr<std::unique_ptr<Generation>> Begin(
      const GenerationParams& params) = 0;

  // One denoise step of each, in one batch: they may differ in all but width
  // and height. The prompts of a generation are encoded again where the
  // resident set changes the text encoder in another way than the set before.
  // NON_FINITE_LATENTS with the step's number when latents are not finite after
  // it, INTERNAL or GPU_OUT_OF_MEMORY when a generation's own part of the step
  // fails: its status() says so too, and the others have done their step. After
  // an error that no status() tells none has.
  virtual absl::Status Step(absl::Span<Generation* const> batch) = 0;

  // What the last step expects the image to become, a pixel per latent pixel,
  // in colours that a linear function guesses. REQUIRES: steps_done() > 0.
  virtual absl::StatusOr<Image> Preview(const Generation& generation) = 0;

  // Decodes the latents. REQUIRES: all steps are done.
  virtual absl::StatusOr<Image> Finish(Generation& generation) = 0;

  // Switches to the base and compares the checksum of every parameter with the
  // one taken at load. With `repair`, what differs is read again from the
  // model's files. Returns a report also when something differs.
  virtual absl::StatusOr<VerifyReport> VerifyBaseWeights(bool repair) = 0;

  // Writes the resident weights of U-Net and text encoder, as they are now, to
  // a safetensors file under their canonical names in the engine's dtype: to a
  // new file beside `path`, moved there when complete. `metadata` becomes the
  // file's "__metadata__".
  virtual absl::Status ExportWeights(
      const std::string& path,
      const std::map<std::string, std::string>& metadata) const = 0;

  // SHA-256 over all resident weights of U-Net and text encoder as they are
  // now, and over the addresses they live at. For tests and verification.
  virtual std::string WeightsSha256() const = 0;
  virtual std::string AddressesSha256() const = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_ENGINE_ENGINE_H_

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/adapter_option.h"
#include "client/commands/command.h"
#include "client/option_checks.h"
#include "client/progress_bar.h"

namespace graft {
namespace {

using Json = nlohmann::ordered_json;

// What the command line says; the server fills in and checks the rest.
struct GenerateOptions {
  std::string prompt;
  std::string negative;
  std::vector<v1::AdapterRef> adapters;
  std::optional<uint32_t> steps;
  std::optional<float> guidance;
  std::string sampler;
  std::string seed;  // a number; CLI11 would take -1 and 010 (octal) for one
  uint32_t width = 0;
  uint32_t height = 0;
  uint32_t count = 1;
  uint32_t preview_interval = 0;
  std::string priority = "interactive";
  std::string out = "graft.png";
  bool json = false;
};

// For CLI11: what is wrong with a seed, empty if nothing.
std::string CheckSeed(const std::string& text) {
  uint64_t seed = 0;
  return absl::SimpleAtoi(text, &seed)
             ? ""
             : absl::StrCat(text, " is no number from 0 to 2^64 - 1");
}

// For CLI11: what is wrong with --out, empty if nothing.
std::string CheckOutput(const std::string& out) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::absolute(out, error);
  if (out.empty() || error || !path.has_filename()) {
    return absl::StrCat("\"", out, "\" is no name of a file");
  }
  if (std::filesystem::is_directory(path, error)) {
    return absl::StrCat(out, " is a folder; give the name of a file in it");
  }
  return "";
}

v1::GenerateImageRequest ToRequest(const GenerateOptions& options) {
  v1::GenerateImageRequest request;
  request.set_prompt(options.prompt);
  request.set_negative_prompt(options.negative);
  request.set_width(options.width);
  request.set_height(options.height);
  request.set_sampler(options.sampler);
  request.set_count(options.count);
  request.set_preview_interval(options.preview_interval);
  request.set_priority(options.priority == "batch" ? v1::PRIORITY_BATCH
                                                   : v1::PRIORITY_INTERACTIVE);
  if (options.steps) request.set_steps(*options.steps);
  if (options.guidance) request.set_guidance_scale(*options.guidance);
  uint64_t seed = 0;
  if (absl::SimpleAtoi(options.seed, &seed)) request.set_seed(seed);
  request.mutable_adapters()->Assign(options.adapters.begin(),
                                     options.adapters.end());
  return request;
}

// FILE.png, or FILE-0.png, FILE-1.png... if there are several.
std::vector<std::string> FileNames(const std::string& out, size_t count) {
  if (count == 1) return {out};
  const std::filesystem::path path(out);
  std::vector<std::string> names;
  for (size_t i = 0; i < count; ++i) {
    std::filesystem::path name = path.parent_path() / path.stem();
    name += absl::StrCat("-", i);
    name += path.extension();
    names.push_back(name.string());
  }
  return names;
}

// Of a preview of image `index`: FILE.preview.png.
std::string PreviewName(const std::string& out, size_t count, size_t index) {
  std::filesystem::path path(FileNames(out, count)[index]);
  return path.replace_extension("preview.png").string();
}

// Better now than after minutes of work.
absl::Status CheckFolder(const std::string& out) {
  // The default's name may be a folder's, too.
  if (const std::string problem = CheckOutput(out); !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--out: ", problem));
  }
  std::error_code error;
  const std::filesystem::path folder =
      std::filesystem::absolute(out, error).parent_path();
  if (std::filesystem::is_directory(folder, error)) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("--out ", out, ": there is no folder ", folder.string()));
}

absl::Status WriteInPlace(const std::string& name, const std::string& bytes) {
  errno = 0;
  std::ofstream file(name, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (file) return absl::OkStatus();
  return absl::ErrnoToStatus(errno != 0 ? errno : EIO,
                             absl::StrCat("cannot write ", name));
}

// Nobody sees half a file under `name`, and what was there stays if there is no
// room. What is no plain file (a pipe, a link) is written to as it is.
absl::Status WriteFile(const std::string& name, const std::string& bytes) {
  std::error_code error;
  const std::filesystem::file_type type =
      std::filesystem::symlink_status(name, error).type();
  if (type != std::filesystem::file_type::regular &&
      type != std::filesystem::file_type::not_found) {
    return WriteInPlace(name, bytes);
  }
  const std::string temporary = absl::StrCat(name, ".", getpid(), ".part");
  absl::Status status = WriteInPlace(temporary, bytes);
  if (status.ok() && std::rename(temporary.c_str(), name.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", name));
  }
  if (!status.ok()) std::remove(temporary.c_str());
  return status;
}

Json TimingsJson(const v1::GenerationTimings& timings) {
  return {{"adapter_load", timings.adapter_load_ms()},
          {"queue", timings.queue_ms()},
          {"switch", timings.switch_ms()},
          {"text_encode", timings.text_encode_ms()},
          {"denoise", timings.denoise_ms()},
          {"vae_decode", timings.vae_decode_ms()},
          {"image_encode", timings.image_encode_ms()}};
}

Json ScheduleJson(const v1::AppliedAdapter& adapter) {
  Json schedule = Json::array();
  for (const v1::WeightRange& range : adapter.schedule()) {
    schedule.push_back(
        {{"from", AsWritten(range.from())},
         {"to", AsWritten(range.to())},
         {"weight", AsWritten(range.weight())},
         {"text_encoder_weight", AsWritten(range.text_encoder_weight())}});
  }
  return schedule;
}

void PrintJson(const v1::Finished& finished,
               const std::vector<std::string>& files, std::ostream& out) {
  Json adapters = Json::array();
  for (const v1::AppliedAdapter& adapter : finished.adapters()) {
    adapters.push_back(
        {{"name", adapter.name()},
         {"sha256", adapter.sha256()},
         {"weight", AsWritten(adapter.weight())},
         {"text_encoder_weight", AsWritten(adapter.text_encoder_weight())},
         {"schedule", ScheduleJson(adapter)}});
  }
  const Json json = {
      {"files", files},
      {"seeds",
       std::vector<uint64_t>(finished.seeds().begin(), finished.seeds().end())},
      {"adapters", adapters},
      {"base_sha256", finished.base_sha256()},
      {"timings_ms", TimingsJson(finished.timings())},
      {"truncated_tokens", finished.truncated_tokens()},
  };
  out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

void PrintText(const v1::Finished& finished,
               const std::vector<std::string>& files, std::ostream& out) {
  for (size_t i = 0; i < files.size(); ++i) {
    out << files[i];
    if (const int image = static_cast<int>(i); image < finished.seeds_size()) {
      out << "  seed " << finished.seeds(image);
    }
    out << "\n";
  }
  const v1::GenerationTimings& timings = finished.timings();
  if (timings.adapter_load_ms() > 0) {
    out << "adapter load " << FormatMilliseconds(timings.adapter_load_ms())
        << ", ";
  }
  out << "queue " << FormatMilliseconds(timings.queue_ms()) << ", switch "
      << FormatMilliseconds(timings.switch_ms()) << ", text encode "
      << FormatMilliseconds(timings.text_encode_ms()) << ", denoise "
      << FormatMilliseconds(timings.denoise_ms()) << ", decode "
      << FormatMilliseconds(timings.vae_decode_ms()) << ", PNG "
      << FormatMilliseconds(timings.image_encode_ms()) << "\n";
  if (finished.truncated_tokens() > 0) {
    out << "note: the prompt is too long for the model; its last "
        << finished.truncated_tokens() << " tokens were left out\n";
  }
}

class GenerateCommand : public Command {
 public:
  explicit GenerateCommand(CLI::App& parent)
      : app_(parent.add_subcommand("generate", "Make images from a prompt")) {
    app_->add_option("PROMPT", options_.prompt, "What to draw")
        ->check(CheckUtf8)
        ->required();
    app_->add_option("--negative", options_.negative, "What to steer away from")
        ->check(CheckUtf8);
    app_->add_option_function<std::vector<std::string>>(
            "--adapter",
            [this](const std::vector<std::string>& texts) {
              SetAdapters(texts);
            },
            "A loaded adapter, with weight 1 unless given, for all steps or "
            "for a part of them; repeat it for several adapters or parts. "
            "WEIGHT is for U-Net and text encoder unless the latter has its "
            "own, FROM and TO are fractions of the steps: sketch=0.8@0-0.4 "
            "merges sketch with weight 0.8 for the first 40 % of the steps")
        ->allow_extra_args(false)
        ->check(CheckUtf8)
        ->type_name(kAdapterOptionForm);
    app_->add_option("--steps", options_.steps,
                     "Denoising steps (default: what the server recommends)")
        ->check(CheckNumber);
    app_->add_option("--guidance", options_.guidance,
                     "Classifier-free guidance scale (default: the server's)");
    app_->add_option("--sampler", options_.sampler,
                     "ddim, euler, euler_a or dpmpp_2m (default: the model's)")
        ->check(CheckUtf8);
    app_->add_option("--seed", options_.seed,
                     "Of the noise (default: a random one, which is printed)")
        ->check(CheckSeed)
        ->type_name("UINT64");
    app_->add_option("--width", options_.width,
                     "Pixels, a multiple of 8 (default: the model's)")
        ->check(CheckNumber);
    app_->add_option("--height", options_.height,
                     "Pixels, a multiple of 8 (default: the model's)")
        ->check(CheckNumber);
    app_->add_option("--count", options_.count,
                     "Images; image i has seed + i and goes to FILE-i.png")
        ->check(CheckNumber)
        ->capture_default_str();
    app_->add_option("--preview_interval", options_.preview_interval,
                     "Every so many steps write what the image may become, "
                     "small and rough, to FILE.preview.png; 0: never")
        ->check(CheckNumber)
        ->capture_default_str();
    app_->add_option("--priority", options_.priority,
                     "interactive, or batch: let the requests of those who "
                     "wait go first")
        ->check(CLI::IsMember({"interactive", "batch"}))
        ->capture_default_str();
    app_->add_option("--out", options_.out,
                     "Where to save; a file that is there is overwritten")
        ->check(CheckOutput)
        ->capture_default_str()
        ->type_name("FILE.png");
    app_->add_flag("--json", options_.json, "Print the result as JSON");
  }

  bool called() const override { return app_->parsed(); }

  absl::Status Run(GraftClient& client, const Console& console) override {
    v1::GenerateImageRequest request = ToRequest(options_);
    if (absl::Status status = CheckFolder(options_.out); !status.ok()) {
      return status;
    }
    if (!options_.steps) {
      absl::StatusOr<v1::ServerInfo> info = client.GetServerInfo();
      if (!info.ok()) return info.status();
      request.set_steps(info->defaults().steps());
    }
    ProgressBar bar(console, options_.count);
    absl::Status preview_status;
    const absl::StatusOr<GraftClient::Generated> generated =
        client.Generate(request, [&](const v1::GenerateImageResponse& event) {
          bar.Show(event);
          if (event.has_preview()) {
            preview_status.Update(SavePreview(event.preview()));
          }
        });
    bar.Clear();
    if (!generated.ok()) return generated.status();
    // The work is done, whatever became of its previews.
    if (absl::Status status = Save(*generated, console); !status.ok()) {
      return status;
    }
    return preview_status;
  }

 private:
  // Throws what CLI11's checks throw: they see one option at a time, and two of
  // them may name the same adapter.
  void SetAdapters(const std::vector<std::string>& texts) {
    absl::StatusOr<std::vector<v1::AdapterRef>> adapters =
        ParseAdapterOptions(texts);
    if (!adapters.ok()) {
      throw CLI::ValidationError(std::string(adapters.status().message()));
    }
    options_.adapters = *std::move(adapters);
  }

  absl::Status SavePreview(const v1::Preview& preview) const {
    if (preview.image_index() >= options_.count) return absl::OkStatus();
    return WriteFile(
        PreviewName(options_.out, options_.count, preview.image_index()),
        preview.png());
  }

  absl::Status Save(const GraftClient::Generated& generated,
                    const Console& console) const {
    const std::vector<std::string> files =
        FileNames(options_.out, generated.images.size());
    for (size_t i = 0; i < files.size(); ++i) {
      const absl::Status status = WriteFile(files[i], generated.images[i]);
      if (!status.ok()) return status;
    }
    if (options_.json) {
      PrintJson(generated.finished, files, console.out);
    } else {
      PrintText(generated.finished, files, console.out);
    }
    return absl::OkStatus();
  }

  CLI::App* const app_;
  GenerateOptions options_;
};

}  // namespace

std::unique_ptr<Command> MakeGenerateCommand(CLI::App& parent) {
  return std::make_unique<GenerateCommand>(parent);
}

}  // namespace graft

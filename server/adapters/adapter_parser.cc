#include "server/adapters/adapter_parser.h"

#include <algorithm>
#include <set>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/adapters/adapter_algorithms.h"
#include "server/adapters/adapter_config.h"
#include "server/adapters/adapter_metadata.h"
#include "server/adapters/key_groups.h"
#include "server/adapters/origin_guess.h"
#include "server/adapters/target_builder.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

constexpr size_t kMaxKeysInMessage = 5;
constexpr size_t kMaxKeysInReport = 32;
constexpr absl::string_view kUnet = "unet";  // components of PEFT folders
constexpr absl::string_view kTextEncoder = "text_encoder";
constexpr absl::string_view kAdvice = "; give an adapter for this base";

std::vector<std::string> FirstKeys(const std::vector<std::string>& keys,
                                   size_t count) {
  std::vector<std::string> first;
  for (const std::string& key : keys) {
    if (first.size() == count) break;
    first.push_back(EscapeUntrusted(key));
  }
  return first;
}

// `status` with the file's name in front of its message.
absl::Status InFile(absl::string_view name, const absl::Status& status) {
  return Error(GetErrorReason(status).value_or(ErrorReason::kInternal),
               absl::StrCat(EscapeUntrusted(name), ": ", status.message()),
               GetErrorMetadata(status));
}

// "; it looks like ..." with what the file's metadata says.
std::string Describe(const OriginGuess& guess, const SafetensorsFile& file) {
  std::string text;
  if (!guess.what.empty()) {
    absl::StrAppend(&text, "; it looks like ", guess.what);
  }
  const std::string hint = BaseHint(file.metadata());
  if (!hint.empty()) {
    absl::StrAppend(&text, "; its metadata names the base ", hint);
  }
  return text;
}

// "this adapter was made for SDXL; this server serves SD 1.x; ", if the guess
// says so.
std::string MadeFor(const OriginGuess& guess, const ModuleTable& modules) {
  if (guess.made_for.empty()) return "";
  return absl::StrCat("this adapter was made for ", guess.made_for,
                      "; this server serves ", BaseFamilyName(modules.family),
                      ": ");
}

std::string FitNothingOf(const ModuleTable& modules) {
  return absl::StrCat("fit no module of this base (",
                      BaseFamilyName(modules.family), ")");
}

// The file's configuration, from where there is one.
absl::StatusOr<AdapterConfig> ReadConfig(
    const SafetensorsFile& file, const AdapterParser::Options& options) {
  if (options.peft_config.has_value()) {
    return AdapterConfig::ParsePeft(*options.peft_config);
  }
  return AdapterConfig::Parse(file.metadata());
}

// What can be left out of a partial load.
bool DoesNotFit(const absl::Status& status) {
  const auto reason = GetErrorReason(status);
  return reason == ErrorReason::kAdapterBaseMismatch ||
         reason == ErrorReason::kAdapterKindUnsupported;
}

// One parsing of one file.
class Parsing {
 public:
  Parsing(const SafetensorsFile& file, const ModuleTable& modules,
          const AdapterParser::Options& options)
      : file_(file), modules_(modules), options_(options) {}

  absl::StatusOr<ParsedAdapter> Run(const KeyNames& names,
                                    absl::string_view sha256);

 private:
  // Keys that fit no module end the parsing, unless the caller allows it.
  absl::Status CheckMatched(const KeyNames& names) const;

  // What is wrong with the unmatched keys, and what to do about it.
  struct Misfit {
    std::string problem;
    std::string advice;
  };
  Misfit ExplainUnmatched(const KeyNames& names) const;

  // How many keys would match if the file, of which none does, were loaded with
  // this component.
  size_t CountMatchedAs(absl::string_view component,
                        const KeyNames& names) const;

  absl::Status AddGroup(const KeyGroup& group, const AdapterConfig& config);

  // Adds all groups. Those that do not fit end the parsing or, if the caller
  // allows it, are left out.
  absl::Status AddTargets(const AdapterConfig& config);

  // The error about a group that does not fit, with a guess at the reason if it
  // is made for another base.
  absl::Status Explain(const absl::Status& status) const;

  // Fills what is known when all targets are there.
  void WriteReport();
  void WriteNotes();
  std::string FormatName() const;

  const SafetensorsFile& file_;
  const ModuleTable& modules_;
  const AdapterParser::Options options_;

  GroupedKeys keys_;
  ParsedAdapter parsed_;
  std::set<std::string> algorithms_;
  int zero_alphas_ = 0;
  bool has_effect_ = false;
};

absl::StatusOr<ParsedAdapter> Parsing::Run(const KeyNames& names,
                                           absl::string_view sha256) {
  GRAFT_ASSIGN_OR_RETURN(const AdapterConfig config,
                         ReadConfig(file_, options_));
  GRAFT_ASSIGN_OR_RETURN(keys_, GroupKeys(file_, names, options_.component));
  GRAFT_RETURN_IF_ERROR(CheckMatched(names));
  GRAFT_RETURN_IF_ERROR(AddTargets(config));
  parsed_.weights.sha256 = std::string(sha256);
  parsed_.weights.storage = file_.owner();
  WriteReport();
  WriteNotes();
  return std::move(parsed_);
}

absl::Status Parsing::CheckMatched(const KeyNames& names) const {
  const bool any = !keys_.groups.empty();
  if (any && (keys_.unmatched.empty() || options_.allow_partial)) {
    return absl::OkStatus();
  }
  const std::string total = absl::StrCat(file_.tensors().size());
  const std::string unmatched = absl::StrCat(keys_.unmatched.size());
  if (keys_.unmatched.empty()) {
    return Error(ErrorReason::kAdapterKeysUnmatched,
                 "no tensor in it changes the base; give an adapter's file",
                 {{"unmatched", unmatched}, {"total", total}});
  }
  const OriginGuess guess = GuessOrigin(file_, modules_);
  const std::string first =
      absl::StrJoin(FirstKeys(keys_.unmatched, kMaxKeysInMessage), ", ");
  const Misfit misfit = guess.made_for.empty() ? ExplainUnmatched(names)
                                               : Misfit{FitNothingOf(modules_),
                                                        std::string(kAdvice)};
  return Error(
      guess.made_for.empty() ? ErrorReason::kAdapterKeysUnmatched
                             : ErrorReason::kAdapterBaseMismatch,
      absl::StrCat(MadeFor(guess, modules_), unmatched, " of ", total, " keys ",
                   misfit.problem, ", first: ", first, Describe(guess, file_),
                   misfit.advice, any ? ", or allow a partial load" : ""),
      {{"unmatched", unmatched},
       {"total", total},
       {"first_keys", first},
       {"looks_like", guess.what},
       {"made_for", guess.made_for}});
}

Parsing::Misfit Parsing::ExplainUnmatched(const KeyNames& names) const {
  const bool is_text = options_.component == kTextEncoder;
  const absl::string_view other = is_text ? kUnet : kTextEncoder;
  const size_t matched = CountMatchedAs(other, names);
  if (matched > 0) {
    return {absl::StrCat("fit no module of this base's ",
                         is_text ? "text encoder" : "U-Net"),
            absl::StrCat("; ", matched, " of them fit its ",
                         is_text ? "U-Net" : "text encoder",
                         ": load it with component \"", other, "\"")};
  }
  std::string known;  // what is said of the first key whose module is known
  bool all_known = true;
  for (const std::string& key : keys_.unmatched) {
    const std::string end = names.UnknownEnd(key, options_.component);
    all_known &= !end.empty();
    if (end.empty() || !known.empty()) continue;
    known = absl::StrCat("; \"", EscapeUntrusted(key), "\" ends in \"",
                         EscapeUntrusted(end), "\", which is not supported");
  }
  if (!all_known) {
    return {FitNothingOf(modules_), absl::StrCat(known, kAdvice)};
  }
  return {"are of no known kind, though their modules are this base's",
          absl::StrCat(known, "; give an adapter of another kind")};
}

size_t Parsing::CountMatchedAs(absl::string_view component,
                               const KeyNames& names) const {
  if (!keys_.groups.empty()) return 0;
  const auto keys = GroupKeys(file_, names, component);
  return keys.ok() ? keys_.unmatched.size() - keys->unmatched.size() : 0;
}

absl::Status Parsing::AddGroup(const KeyGroup& group,
                               const AdapterConfig& config) {
  GRAFT_ASSIGN_OR_RETURN(ModuleChange change, MakeModuleChange(group, config));
  AdapterReport& report = parsed_.report;
  (absl::StartsWith(group.module->name, "unet.")
       ? report.unet_targets
       : report.text_encoder_targets)++;
  report.keys.matched += static_cast<int>(group.parts.size());
  for (const absl::string_view algorithm : change.algorithms) {
    algorithms_.emplace(algorithm);
  }
  zero_alphas_ += change.zero_alpha ? 1 : 0;
  has_effect_ |= !change.no_effect;
  for (AdapterTarget& target : change.targets) {
    report.max_rank = std::max(report.max_rank, target.rank);
    parsed_.weights.targets.push_back(std::move(target));
  }
  return absl::OkStatus();
}

absl::Status Parsing::AddTargets(const AdapterConfig& config) {
  absl::Status first_misfit;
  for (const auto& [module, group] : keys_.groups) {
    const absl::Status status = AddGroup(group, config);
    if (!DoesNotFit(status)) {
      GRAFT_RETURN_IF_ERROR(status);
      continue;
    }
    if (!options_.allow_partial) return Explain(status);
    first_misfit.Update(status);
    for (const auto& [part, tensor] : group.parts) {
      keys_.unmatched.push_back(tensor.key);
    }
  }
  if (parsed_.weights.targets.empty()) return Explain(first_misfit);
  return absl::OkStatus();
}

absl::Status Parsing::Explain(const absl::Status& status) const {
  if (GetErrorReason(status) != ErrorReason::kAdapterBaseMismatch) {
    return status;
  }
  const OriginGuess guess = GuessOrigin(file_, modules_);
  return Error(ErrorReason::kAdapterBaseMismatch,
               absl::StrCat(MadeFor(guess, modules_), status.message(),
                            Describe(guess, file_), kAdvice),
               GetErrorMetadata(status));
}

void Parsing::WriteReport() {
  AdapterReport& report = parsed_.report;
  report.format = FormatName();
  // As users tell them apart: LoCon is a LoRA that adapts larger kernels too.
  if (algorithms_.count("locon") > 0) algorithms_.erase("lora");
  report.algorithms.assign(algorithms_.begin(), algorithms_.end());
  report.keys.unmatched = static_cast<int>(keys_.unmatched.size());
  report.keys.unmatched_keys = FirstKeys(keys_.unmatched, kMaxKeysInReport);
  report.keys.not_applied = static_cast<int>(keys_.not_applied.size());
  report.keys.not_applied_keys = FirstKeys(keys_.not_applied, kMaxKeysInReport);
  report.trigger_words = TriggerWords(file_.metadata());
  report.base_hint = BaseHint(file_.metadata());
  report.metadata = DisplayMetadata(file_.metadata());
}

void Parsing::WriteNotes() {
  std::vector<std::string>& notes = parsed_.report.notes;
  if (!has_effect_) {
    notes.push_back("All its factors are zero: it has no effect.");
  }
  if (zero_alphas_ > 0) {
    notes.push_back(absl::StrCat("Alpha is 0 in ", zero_alphas_,
                                 " module(s), which trainers take for no "
                                 "scaling: their scale is 1."));
  }
  const auto embeddings = std::count_if(
      keys_.not_applied.begin(), keys_.not_applied.end(), IsBundledEmbedding);
  if (embeddings > 0) {
    notes.push_back(absl::StrCat(
        embeddings, " tensor(s) of bundled embeddings are not applied."));
  }
  if (const auto others =
          static_cast<int64_t>(keys_.not_applied.size()) - embeddings;
      others > 0) {
    notes.push_back(absl::StrCat(
        others,
        " tensor(s) of the text encoder's projection, which this base "
        "does not use, are not applied: their change is zero."));
  }
  if (!keys_.unmatched.empty()) {
    notes.push_back(absl::StrCat(keys_.unmatched.size(),
                                 " tensor(s) that do not fit this base, or "
                                 "are of an algorithm that is not supported, "
                                 "are left out."));
  }
}

std::string Parsing::FormatName() const {
  if (keys_.formats.size() > 1) return "mixed";
  switch (*keys_.formats.begin()) {
    case KeyFormat::kKohya:
      return "kohya";
    case KeyFormat::kDiffusers:
      return "diffusers";
    case KeyFormat::kPeft:
      return "peft";
  }
  return "mixed";
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdapterParser>> AdapterParser::Create(
    const ModuleTable* modules) {
  GRAFT_ASSIGN_OR_RETURN(KeyNames names, KeyNames::Create(modules));
  return std::unique_ptr<AdapterParser>(
      new AdapterParser(modules, std::move(names)));
}

absl::StatusOr<ParsedAdapter> AdapterParser::Parse(
    const SafetensorsFile& file, absl::string_view name,
    absl::string_view sha256, const Options& options) const {
  absl::StatusOr<ParsedAdapter> parsed =
      Parsing(file, *modules_, options).Run(names_, sha256);
  if (!parsed.ok()) return InFile(name, parsed.status());
  return parsed;
}

}  // namespace graft

#include "server/adapters/adapter_store.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/adapters/adapter_id.h"
#include "server/adapters/adapter_parser.h"
#include "server/adapters/adapter_registry.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

absl::Status CheckDigest(const AdapterFile& file, absl::string_view path,
                         absl::string_view expected) {
  if (expected.empty() || file.sha256 == expected) return absl::OkStatus();
  return Error(ErrorReason::kAdapterVersionMismatch,
               absl::StrCat(EscapeUntrusted(path), ": its SHA-256 is ",
                            file.sha256, ", not ", expected,
                            "; get the right file, or leave the digest out"),
               {{"resource_type", "AdapterFile"},
                {"resource_name", EscapeUntrusted(path)},
                {"sha256", file.sha256}});
}

absl::Status CheckDigestSyntax(absl::string_view digest) {
  const bool hexadecimal =
      digest.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
  if (digest.empty() || (hexadecimal && digest.size() == 64)) {
    return absl::OkStatus();
  }
  return InvalidField("sha256", "not 64 lower-case hexadecimal digits");
}

// The digest of a file that is read as `component`. What a folder's tensors
// change is not in its bytes, and the digest tells what an adapter does.
std::string DigestAs(absl::string_view component, const std::string& sha256) {
  if (component.empty() || component == "unet") return sha256;
  const std::string text = absl::StrCat(sha256, component);
  return Sha256Hex(text.data(), text.size());
}

absl::Status CheckComponent(absl::string_view component) {
  if (component.empty() || component == "unet" || component == "text_encoder") {
    return absl::OkStatus();
  }
  return InvalidField("component", "neither \"unet\" nor \"text_encoder\"");
}

// The name that the request is about, if all that can be told without its file
// is right.
absl::StatusOr<std::string> CheckRequest(
    const AdapterStore::LoadRequest& request) {
  GRAFT_RETURN_IF_ERROR(AdapterSource::CheckPath(request.path));
  GRAFT_RETURN_IF_ERROR(CheckDigestSyntax(request.expected_sha256));
  GRAFT_RETURN_IF_ERROR(CheckComponent(request.component));
  return ChooseAdapterId(request.name, request.path);
}

absl::Status Conflict(const AdapterInfo& active) {
  return Error(
      ErrorReason::kAdapterConflict,
      absl::StrCat("adapter \"", active.name,
                   "\" is loaded with other content "
                   "(SHA-256 ",
                   active.sha256,
                   "); choose another name, unload it, or allow to replace it"),
      {{"resource_type", "Adapter"},
       {"resource_name", active.name},
       {"sha256", active.sha256}});
}

// True if what is reported is what the request asks for. A content that was
// loaded in part is not, for a caller who wants all or nothing.
bool Satisfies(const AdapterReport& report,
               const AdapterStore::LoadRequest& request) {
  return request.allow_partial || report.keys.unmatched == 0;
}

// What makes room for `bytes`.
std::string AdviceForRoom(const ByteBudget& budget, int64_t bytes,
                          std::vector<std::string> idle) {
  constexpr size_t kMaxNames = 3;
  if (!budget.CanHold(bytes)) return "raise --max_adapter_host_bytes";
  if (idle.empty()) {
    return "wait until a request ends, unpin an adapter, or raise "
           "--max_adapter_host_bytes";
  }
  if (idle.size() > kMaxNames) idle.resize(kMaxNames);
  return absl::StrCat("unload one that is not in use, such as ",
                      absl::StrJoin(idle, ", "),
                      ", or raise --max_adapter_host_bytes");
}

absl::Status HostFull(const ByteBudget& budget, int64_t bytes,
                      absl::string_view path, std::vector<std::string> idle) {
  return Error(ErrorReason::kAdapterCacheFull,
               absl::StrCat(EscapeUntrusted(path), ": its ", bytes,
                            " bytes do not fit in host memory beside the ",
                            budget.used(), " of other adapters; the limit is ",
                            budget.limit(), ": ",
                            AdviceForRoom(budget, bytes, std::move(idle))),
               {{"wanted_bytes", absl::StrCat(bytes)},
                {"limit_bytes", absl::StrCat(budget.limit())}});
}

// True for an adapter that is larger than a whole tier.
bool NeverFits(const absl::Status& status) {
  int64_t wanted = 0;
  int64_t limit = 0;
  for (const auto& [key, value] : GetErrorMetadata(status)) {
    if (key == "wanted_bytes" && !absl::SimpleAtoi(value, &wanted))
      return false;
    if (key == "limit_bytes" && !absl::SimpleAtoi(value, &limit)) return false;
  }
  return wanted > limit;
}

// True if a load failed for what the file is: it will fail again until the file
// changes. All else may be different the next time.
bool IsVerdict(const absl::Status& status) {
  switch (GetErrorReason(status).value_or(ErrorReason::kInternal)) {
    case ErrorReason::kAdapterTooLarge:
    case ErrorReason::kAdapterBaseMismatch:
    case ErrorReason::kAdapterKeysUnmatched:
    case ErrorReason::kAdapterKindUnsupported:
    case ErrorReason::kAdapterCorrupt:
    case ErrorReason::kAdapterNonFinite:
      return true;
    case ErrorReason::kAdapterCacheFull:
      return NeverFits(status);
    default:
      return false;
  }
}

// What is known of a file before it is loaded.
AdapterInfo DescribeFile(const AdapterFile& file, const std::string& name,
                         const AdapterStore::LoadRequest& request) {
  AdapterInfo info;
  info.name = name;
  info.path = request.path;
  info.sha256 = file.sha256;
  info.size_bytes = file.size_bytes();
  return info;
}

}  // namespace

// Given back at the end unless the load has succeeded.
class AdapterStore::Reservation {
 public:
  // `id`: of AdapterRegistry::BeginLoad.
  Reservation(AdapterRegistry* registry, const std::string& name, int64_t id)
      : registry_(registry), name_(name), id_(id) {}
  ~Reservation() {
    if (!used_) registry_->AbandonLoad(name_, id_);
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  AdapterInfo Activate(AdapterInfo info, AdapterContentPtr content,
                       const FileStamp& stamp, AdapterHandle* handle) {
    used_ = true;
    return registry_->Activate(id_, std::move(info), std::move(content), stamp,
                               handle);
  }

  // AdapterRegistry::ActivateChanged.
  std::optional<AdapterInfo> ActivateChanged(AdapterInfo info,
                                             AdapterContentPtr content,
                                             const FileStamp& stamp) {
    std::optional<AdapterInfo> activated = registry_->ActivateChanged(
        id_, std::move(info), std::move(content), stamp);
    used_ = activated.has_value();
    return activated;
  }

 private:
  AdapterRegistry* const registry_;
  const std::string name_;
  const int64_t id_;
  bool used_ = false;
};

absl::StatusOr<std::unique_ptr<AdapterStore>> AdapterStore::Create(
    const AdapterSource* source, const Engine* engine, const Options& options) {
  GRAFT_ASSIGN_OR_RETURN(auto parser,
                         AdapterParser::Create(&engine->modules()));
  return std::unique_ptr<AdapterStore>(
      new AdapterStore(source, engine, options, std::move(parser)));
}

absl::StatusOr<std::unique_ptr<AdapterStore>> AdapterStore::Create(
    const AdapterSource* source, const Engine* engine) {
  return Create(source, engine, Options());
}

AdapterStore::AdapterStore(const AdapterSource* source, const Engine* engine,
                           const Options& options,
                           std::unique_ptr<AdapterParser> parser)
    : source_(source),
      options_(options),
      parser_(std::move(parser)),
      cache_(std::make_shared<AdapterCache>(
          engine,
          AdapterCache::Options{.max_host_bytes = options.max_host_bytes,
                                .max_device_bytes = options.max_device_bytes})),
      registry_(std::make_shared<AdapterRegistry>(cache_)) {}

AdapterStore::~AdapterStore() = default;

absl::StatusOr<AdapterStore::LoadResult> AdapterStore::Load(
    const LoadRequest& request) {
  const absl::StatusOr<LoadResult> result =
      *LoadFor(LoadCause::kAsked, request, nullptr);
  if (!request.validate_only) CountLoad(result);
  return result;
}

void AdapterStore::Load(const LoadRequest& request, Executor* executor,
                        LoadDone done) {
  const std::optional<absl::StatusOr<LoadResult>> result =
      LoadFor(LoadCause::kAsked, request, [this, request, executor, done] {
        executor->Run(
            [this, request, executor, done] { Load(request, executor, done); });
      });
  if (!result.has_value()) return;
  if (!request.validate_only) CountLoad(*result);
  done(*result);
}

std::optional<int64_t> AdapterStore::Reserve(
    const std::string& name, const std::string& path,
    const AdapterCache::Continuation& again) {
  if (again == nullptr) return registry_->BeginLoad(name, path);
  return registry_->TryBeginLoad(name, path, again);
}

std::optional<absl::StatusOr<AdapterStore::LoadResult>> AdapterStore::LoadFor(
    LoadCause cause, const LoadRequest& request,
    const AdapterCache::Continuation& again) {
  GRAFT_ASSIGN_OR_RETURN(const std::string name, CheckRequest(request));
  if (request.validate_only) {
    return LoadReserved(cause, request, name, nullptr, nullptr);
  }
  // One load of a name at a time: the second finds what the first has loaded.
  const std::optional<int64_t> id = Reserve(name, request.path, again);
  if (!id.has_value()) return std::nullopt;
  Reservation reservation(registry_.get(), name, *id);
  return LoadReserved(cause, request, name, &reservation, nullptr);
}

absl::StatusOr<AdapterStore::LoadResult> AdapterStore::LoadReserved(
    LoadCause cause, const LoadRequest& request, const std::string& name,
    Reservation* reservation, AdapterHandle* handle) {
  const std::optional<AdapterInfo> active = registry_->FindActive(name);
  if (cause == LoadCause::kFirstUse && active.has_value()) {
    return LoadResult{*active, true};
  }
  if (cause == LoadCause::kFileChanged &&
      (!active.has_value() || !active->autoloaded)) {
    return LoadResult{{}, true};  // the name is not the file's any more
  }

  GRAFT_ASSIGN_OR_RETURN(const AdapterFile file, ReadFor(request, active));
  if (active.has_value() && active->sha256 == file.sha256 &&
      Satisfies(active->report, request)) {
    if (request.validate_only) return LoadResult{*active, true};
    const bool still_there = registry_->Confirm(name, file.sha256, file.stamp,
                                                cause == LoadCause::kAsked);
    if (still_there && request.pinned) {
      GRAFT_ASSIGN_OR_RETURN(AdapterInfo pinned,
                             registry_->SetPinned(name, true));
      return LoadResult{std::move(pinned), true};
    }
    // Else unloaded meanwhile, and loaded again for whoever asks for it.
    if (still_there || cause == LoadCause::kFileChanged) {
      return LoadResult{*active, true};
    }
  }
  AdapterInfo info = DescribeFile(file, name, request);
  info.autoloaded = cause != LoadCause::kAsked;
  info.pinned = request.pinned;
  if (request.validate_only) {
    GRAFT_ASSIGN_OR_RETURN(ParsedAdapter parsed, Parse(file, request));
    info.report = std::move(parsed.report);
    return LoadResult{std::move(info), false};
  }
  GRAFT_ASSIGN_OR_RETURN(AdapterContentPtr content, GetContent(file, request));
  info.report = content->report;
  // While the device is full of what requests use, it stays in host memory.
  const absl::Status resident = cache_->MakeResident(content).status();
  if (!IsDeviceFullForNow(resident)) GRAFT_RETURN_IF_ERROR(resident);
  if (cause == LoadCause::kFileChanged) {
    std::optional<AdapterInfo> changed = reservation->ActivateChanged(
        std::move(info), std::move(content), file.stamp);
    // Else unloaded meanwhile: nobody wants it back.
    if (changed.has_value()) return LoadResult{*std::move(changed), false};
    return LoadResult{{}, true};
  }
  return LoadResult{reservation->Activate(std::move(info), std::move(content),
                                          file.stamp, handle),
                    false};
}

absl::StatusOr<AdapterFile> AdapterStore::ReadFor(
    const LoadRequest& request, const std::optional<AdapterInfo>& active) {
  // What cannot be kept is not read: it would take the memory meanwhile. But
  // what is in memory already takes no more.
  const auto check_size = [&](int64_t bytes) -> absl::Status {
    const bool may_be_active =
        active.has_value() && active->size_bytes == bytes;
    if (CanHold(bytes) || may_be_active ||
        registry_->HasRead(request.path, bytes)) {
      return absl::OkStatus();
    }
    return HostFull(cache_->host(), bytes, request.path,
                    registry_->IdleNames());
  };
  GRAFT_ASSIGN_OR_RETURN(AdapterFile file,
                         source_->Read(request.path, check_size));
  file.sha256 = DigestAs(request.component, file.sha256);
  GRAFT_RETURN_IF_ERROR(
      CheckDigest(file, request.path, request.expected_sha256));
  if (active.has_value() && active->sha256 != file.sha256 &&
      !request.allow_replace) {
    return Conflict(*active);
  }
  return file;
}

absl::StatusOr<AdapterContentPtr> AdapterStore::GetContent(
    const AdapterFile& file, const LoadRequest& request) {
  AdapterContentPtr content = cache_->Find(file.sha256);
  if (content != nullptr && Satisfies(content->report, request)) {
    return content;
  }
  GRAFT_ASSIGN_OR_RETURN(ParsedAdapter parsed, Parse(file, request));
  return Insert({.weights = std::move(parsed.weights),
                 .report = std::move(parsed.report),
                 .size_bytes = file.size_bytes()},
                request.path);
}

absl::StatusOr<AdapterContentPtr> AdapterStore::Insert(
    AdapterContent content, const std::string& path) {
  AdapterContentPtr inserted = cache_->Insert(content);
  while (inserted == nullptr) {
    // Nothing gives way for what would not fit even then.
    const int unloaded =
        CanHold(content.size_bytes) ? registry_->UnloadIdle() : 0;
    if (unloaded == 0) {
      return HostFull(cache_->host(), content.size_bytes, path,
                      registry_->IdleNames());
    }
    host_evictions_ += unloaded;
    inserted = cache_->Insert(content);
  }
  return inserted;
}

bool AdapterStore::CanHold(int64_t bytes) const {
  const ByteBudget& host = cache_->host();
  return host.CanHold(host.used() - registry_->IdleBytes() + bytes);
}

void AdapterStore::CountLoad(const absl::StatusOr<LoadResult>& result) {
  if (!result.ok()) {
    ++loads_failed_;
  } else if (result->already_loaded) {
    ++loads_repeated_;
  } else {
    ++loads_;
  }
}

absl::StatusOr<ParsedAdapter> AdapterStore::Parse(
    const AdapterFile& file, const LoadRequest& request) const {
  GRAFT_ASSIGN_OR_RETURN(
      const SafetensorsFile safetensors,
      SafetensorsFile::Parse(file.owner, file.bytes, request.path,
                             options_.file_limits));
  return parser_->Parse(safetensors, request.path, file.sha256,
                        {.allow_partial = request.allow_partial,
                         .component = request.component,
                         .peft_config = file.peft_config});
}

void AdapterStore::Unload(absl::string_view name, UnloadMode mode,
                          UnloadDone done) {
  const absl::Status refusal = registry_->Unload(name, mode, done);
  if (!refusal.ok()) done(refusal);
}

absl::StatusOr<AdapterInfo> AdapterStore::SetPinned(absl::string_view name,
                                                    bool pinned) {
  return registry_->SetPinned(name, pinned);
}

absl::StatusOr<AdapterInfo> AdapterStore::Get(absl::string_view name) const {
  return registry_->Get(name);
}

std::vector<AdapterInfo> AdapterStore::List() const {
  return registry_->List();
}

absl::StatusOr<AdapterHandle> AdapterStore::Acquire(absl::string_view name,
                                                    absl::string_view sha256) {
  absl::StatusOr<AdapterHandle> handle = registry_->Acquire(name, sha256);
  if (handle.ok() && handle->resident()) ++hits_;
  return handle;
}

absl::StatusOr<AdapterHandle> AdapterStore::AcquireResident(
    absl::string_view name, absl::string_view sha256) {
  Acquisition acquisition{.name = std::string(name),
                          .sha256 = std::string(sha256)};
  GRAFT_RETURN_IF_ERROR(*TryAcquire(acquisition, nullptr));
  return std::move(acquisition.handle);
}

void AdapterStore::AcquireResident(absl::string_view name,
                                   absl::string_view sha256, Executor* executor,
                                   AcquireDone done) {
  GoOn(std::make_shared<Acquisition>(Acquisition{.name = std::string(name),
                                                 .sha256 = std::string(sha256),
                                                 .executor = executor,
                                                 .done = std::move(done)}));
}

void AdapterStore::GoOn(const std::shared_ptr<Acquisition>& acquisition) {
  const std::optional<absl::Status> status =
      TryAcquire(*acquisition, [this, acquisition] {
        acquisition->executor->Run([this, acquisition] { GoOn(acquisition); });
      });
  if (!status.has_value()) return;
  if (status->ok()) {
    acquisition->done(std::move(acquisition->handle));
  } else {
    acquisition->done(*status);
  }
}

std::optional<absl::Status> AdapterStore::TryAcquire(
    Acquisition& acquisition, const AdapterCache::Continuation& again) {
  AdapterHandle& handle = acquisition.handle;
  if (!handle) {
    absl::StatusOr<AdapterHandle> active =
        registry_->Acquire(acquisition.name, acquisition.sha256);
    if (active.ok()) {
      handle = *std::move(active);
    } else if (options_.autoload && IsValidAdapterId(acquisition.name) &&
               GetErrorReason(active.status()) ==
                   ErrorReason::kAdapterNotFound) {
      acquisition.missed = true;
      const std::optional<absl::Status> loaded = Autoload(acquisition, again);
      if (!loaded.has_value() || !loaded->ok()) return loaded;
    } else {
      return active.status();
    }
  }
  if (!handle.resident()) {
    acquisition.missed = true;
    const std::optional<absl::Status> resident = handle.MakeResident(again);
    if (!resident.has_value() || !resident->ok()) return resident;
  }
  if (acquisition.missed) ++misses_;
  return absl::OkStatus();
}

std::optional<absl::Status> AdapterStore::Autoload(
    Acquisition& acquisition, const AdapterCache::Continuation& again) {
  const LoadRequest request = {
      .path = absl::StrCat(acquisition.name, ".safetensors"),
      .name = acquisition.name,
      .expected_sha256 = acquisition.sha256};
  GRAFT_ASSIGN_OR_RETURN(const std::string name, CheckRequest(request));
  while (true) {
    const std::optional<int64_t> id = Reserve(name, request.path, again);
    if (!id.has_value()) return std::nullopt;
    AdapterHandle& loaded = acquisition.handle;
    absl::StatusOr<LoadResult> result;
    {
      Reservation reservation(registry_.get(), name, *id);
      result = LoadReserved(LoadCause::kFirstUse, request, name, &reservation,
                            &loaded);
    }
    if (loaded || !result.ok()) CountLoad(result);
    GRAFT_RETURN_IF_ERROR(result.status());
    if (loaded) return absl::OkStatus();
    // Loaded by another request; and perhaps unloaded again since.
    absl::StatusOr<AdapterHandle> handle =
        registry_->Acquire(acquisition.name, acquisition.sha256);
    if (handle.ok()) {
      loaded = *std::move(handle);
      return absl::OkStatus();
    }
    if (GetErrorReason(handle.status()) != ErrorReason::kAdapterNotFound) {
      return handle.status();
    }
  }
}

AdapterStore::PollReport AdapterStore::Poll(
    const std::function<bool()>& stopping) {
  PollReport report;
  const std::vector<AdapterRegistry::Watched> watched = registry_->Autoloaded();
  // What fails as it did the last time has been told.
  std::map<std::string, ErrorReason> failing;
  const auto note = [&](const std::string& name, const absl::Status& failure) {
    const ErrorReason reason =
        GetErrorReason(failure).value_or(ErrorReason::kInternal);
    failing[name] = reason;
    const auto told = failing_.find(name);
    if (told == failing_.end() || told->second != reason) {
      report.failures.emplace_back(name, failure);
    }
  };
  const absl::Status directory =
      watched.empty() ? absl::OkStatus() : source_->CheckDirectory();
  if (!directory.ok()) note("", directory);
  for (const AdapterRegistry::Watched& adapter : watched) {
    if (!directory.ok() || (stopping != nullptr && stopping())) break;
    const absl::Status failure = Refresh(adapter, report);
    if (!failure.ok()) note(adapter.name, failure);
  }
  failing_ = std::move(failing);
  return report;
}

absl::Status AdapterStore::Refresh(const AdapterRegistry::Watched& watched,
                                   PollReport& report) {
  const absl::StatusOr<FileStamp> stamp = source_->Stamp(watched.path);
  if (stamp.ok() && *stamp == watched.stamp) return absl::OkStatus();
  if (GetErrorReason(stamp.status()) == ErrorReason::kAdapterNotFound) {
    if (registry_->UnloadWatched(watched)) {
      report.unloaded.push_back(watched.name);
    }
    return absl::OkStatus();
  }
  GRAFT_RETURN_IF_ERROR(stamp.status());
  const absl::StatusOr<LoadResult> result = *LoadFor(
      LoadCause::kFileChanged,
      {.path = watched.path, .name = watched.name, .allow_replace = true},
      nullptr);
  CountLoad(result);
  if (!result.ok() && !IsVerdict(result.status())) return result.status();
  if (!result.ok()) {
    registry_->UpdateStamp(watched, *stamp);  // so that it is tried once
    report.failures.emplace_back(watched.name, result.status());
  } else if (!result->already_loaded) {
    report.replaced.push_back(watched.name);
  }
  return absl::OkStatus();
}

AdapterStoreStats AdapterStore::stats() const {
  const AdapterCache::Counts counts = cache_->counts();
  return {.loads = loads_,
          .loads_repeated = loads_repeated_,
          .loads_failed = loads_failed_,
          .host_evictions = host_evictions_,
          .device_evictions = cache_->evictions(),
          .hits = hits_,
          .misses = misses_,
          .host_adapters = counts.host,
          .device_adapters = counts.device,
          .host_bytes = cache_->host().used(),
          .device_bytes = cache_->device().used(),
          .max_host_bytes = options_.max_host_bytes,
          .max_device_bytes = options_.max_device_bytes};
}

}  // namespace graft

#include "server/adapters/adapter_store.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/adapters/adapter_id.h"
#include "server/adapters/adapter_parser.h"
#include "server/adapters/adapter_registry.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// A name that is taken for one load. Given back at the end unless the load has
// succeeded.
class Reservation {
 public:
  Reservation(AdapterRegistry* registry, const std::string& name,
              const std::string& path)
      : registry_(registry),
        name_(name),
        id_(registry->BeginLoad(name, path)) {}
  ~Reservation() {
    if (!used_) registry_->AbandonLoad(name_, id_);
  }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  AdapterInfo Activate(AdapterInfo info, PreparedAdapterPtr prepared) {
    used_ = true;
    return registry_->Activate(id_, std::move(info), std::move(prepared));
  }

 private:
  AdapterRegistry* const registry_;
  const std::string name_;
  const int64_t id_;
  bool used_ = false;
};

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

// True if `active` is what the request asks for. A content that was loaded in
// part is not, for a caller who wants all or nothing.
bool IsLoadedAs(const AdapterInfo& active, const AdapterFile& file,
                const AdapterStore::LoadRequest& request) {
  return active.sha256 == file.sha256 &&
         (request.allow_partial || active.report.keys.unmatched == 0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdapterStore>> AdapterStore::Create(
    const AdapterSource* source, const Engine* engine, const Options& options) {
  GRAFT_ASSIGN_OR_RETURN(auto parser,
                         AdapterParser::Create(&engine->modules()));
  return std::unique_ptr<AdapterStore>(
      new AdapterStore(source, engine, options, std::move(parser)));
}

AdapterStore::AdapterStore(const AdapterSource* source, const Engine* engine,
                           const Options& options,
                           std::unique_ptr<AdapterParser> parser)
    : source_(source),
      engine_(engine),
      options_(options),
      parser_(std::move(parser)),
      registry_(std::make_shared<AdapterRegistry>()) {}

AdapterStore::~AdapterStore() = default;

absl::StatusOr<AdapterStore::LoadResult> AdapterStore::Load(
    const LoadRequest& request) {
  GRAFT_RETURN_IF_ERROR(AdapterSource::CheckPath(request.path));
  GRAFT_RETURN_IF_ERROR(CheckDigestSyntax(request.expected_sha256));
  GRAFT_ASSIGN_OR_RETURN(const std::string name,
                         ChooseAdapterId(request.name, request.path));
  // One load of a name at a time: the second finds what the first has loaded.
  std::optional<Reservation> reservation;
  if (!request.validate_only) {
    reservation.emplace(registry_.get(), name, request.path);
  }

  GRAFT_ASSIGN_OR_RETURN(const AdapterFile file, source_->Read(request.path));
  GRAFT_RETURN_IF_ERROR(
      CheckDigest(file, request.path, request.expected_sha256));
  const std::optional<AdapterInfo> active = registry_->FindActive(name);
  if (active.has_value()) {
    if (IsLoadedAs(*active, file, request)) return LoadResult{*active, true};
    if (active->sha256 != file.sha256 && !request.allow_replace) {
      return Conflict(*active);
    }
  }

  GRAFT_ASSIGN_OR_RETURN(ParsedAdapter parsed, Parse(file, request));
  AdapterInfo info;
  info.name = name;
  info.path = request.path;
  info.sha256 = file.sha256;
  info.size_bytes = static_cast<int64_t>(file.bytes.size());
  info.report = std::move(parsed.report);
  if (request.validate_only) return LoadResult{std::move(info), false};
  GRAFT_ASSIGN_OR_RETURN(PreparedAdapterPtr prepared,
                         engine_->Prepare(parsed.weights));
  info.device_bytes = prepared->bytes();
  return LoadResult{reservation->Activate(std::move(info), std::move(prepared)),
                    false};
}

absl::StatusOr<ParsedAdapter> AdapterStore::Parse(
    const AdapterFile& file, const LoadRequest& request) const {
  GRAFT_ASSIGN_OR_RETURN(
      const SafetensorsFile safetensors,
      SafetensorsFile::Parse(file.owner, file.bytes, request.path,
                             options_.file_limits));
  return parser_->Parse(safetensors, request.path, file.sha256,
                        {.allow_partial = request.allow_partial});
}

void AdapterStore::Unload(absl::string_view name, bool wait, UnloadDone done) {
  registry_->Unload(name, wait, std::move(done));
}

absl::StatusOr<AdapterInfo> AdapterStore::Get(absl::string_view name) const {
  return registry_->Get(name);
}

std::vector<AdapterInfo> AdapterStore::List() const {
  return registry_->List();
}

absl::StatusOr<AdapterHandle> AdapterStore::Acquire(absl::string_view name,
                                                    absl::string_view sha256) {
  return registry_->Acquire(name, sha256);
}

}  // namespace graft

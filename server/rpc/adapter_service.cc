#include "server/rpc/adapter_service.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/proto_conversions.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/unary_call.h"
#include "server/rpc/upload_reactor.h"

namespace graft {
namespace {

constexpr uint32_t kDefaultPageSize = 100;
constexpr uint32_t kMaxPageSize = 1000;

v1::Adapter Describe(const Backend& backend, const AdapterInfo& info) {
  return ToProto(info, backend.engine->info().family,
                 backend.scheduler->resident());
}

// Brings an adapter to the device, calls `use` while it is there, and then
// `done` on one of the loader's threads. If there is no room and the device is
// idle, what was merged last gives way. Blocks on reading and preparing.
void BringToDevice(const Backend& backend, const std::string& name,
                   const std::function<absl::Status()>& use,
                   const UnaryDone& done) {
  const auto acquire = [&backend, name](AdapterStore::AcquireDone acquired) {
    backend.adapters->AcquireResident(name, /*sha256=*/"", backend.loader,
                                      std::move(acquired));
  };
  const auto finish = [use, done](absl::StatusOr<AdapterHandle> handle) {
    const absl::Status status = handle.ok() ? use() : handle.status();
    handle = AdapterHandle();  // nobody finds it in use after the answer
    done(status);
  };
  acquire([&backend, acquire, finish](absl::StatusOr<AdapterHandle> handle) {
    if (!IsDeviceFullForNow(handle.status())) {
      finish(std::move(handle));
      return;
    }
    backend.scheduler->LetGoWhileIdle([&backend, acquire, finish] {
      backend.loader->Run([acquire, finish] { acquire(finish); });
    });
  });
}

// An adapter that is pinned belongs on the device. It is loaded in any case: if
// there is no room, the next request that names it finds some.
void AnswerPinned(const Backend& backend, const std::string& name,
                  v1::LoadAdapterResponse& response, const UnaryDone& done) {
  const auto describe = [&backend, &response, name]() -> absl::Status {
    GRAFT_ASSIGN_OR_RETURN(const AdapterInfo info, backend.adapters->Get(name));
    *response.mutable_adapter() = Describe(backend, info);
    return absl::OkStatus();
  };
  BringToDevice(backend, name, describe,
                [describe, done](const absl::Status& status) {
                  done(IsDeviceFullForNow(status) ? describe() : status);
                });
}

// Reads the file and fills in the response. Blocks, but leaves the loader's
// threads to others while another load of the same name is under way.
void Load(const Backend& backend, const v1::LoadAdapterRequest& request,
          v1::LoadAdapterResponse& response, UnaryDone done) {
  backend.adapters->Load(
      FromProto(request), backend.loader,
      [&backend, &response, done = std::move(done)](
          const absl::StatusOr<AdapterStore::LoadResult>& result) {
        if (!result.ok()) {
          done(result.status());
          return;
        }
        const AdapterInfo& adapter = result->adapter;
        *response.mutable_adapter() = Describe(backend, adapter);
        response.set_already_loaded(result->already_loaded);
        if (adapter.pinned && adapter.residency == AdapterResidency::kHost) {
          AnswerPinned(backend, adapter.name, response, done);
        } else {
          done(absl::OkStatus());
        }
      });
}

absl::StatusOr<UnloadMode> ModeOf(const v1::UnloadAdapterRequest& request) {
  GRAFT_RETURN_IF_ERROR(ValidateAdapterName(request.name(), "name"));
  if (!request.force()) {
    return request.only_if_unused() ? UnloadMode::kOnlyIfUnused
                                    : UnloadMode::kWait;
  }
  if (!request.only_if_unused()) return UnloadMode::kForce;
  return InvalidField("force",
                      "contradicts only_if_unused; choose one of them");
}

// Takes the adapter out of the store, then, when no request uses it any more,
// out of the weights; only then is its memory free and the answer due.
void Unload(const Backend& backend, const v1::UnloadAdapterRequest& request,
            v1::UnloadAdapterResponse& response, UnaryDone done) {
  const absl::StatusOr<UnloadMode> mode = ModeOf(request);
  if (!mode.ok()) {
    done(mode.status());
    return;
  }
  const auto on_freed = [&response, done](absl::StatusOr<int64_t> freed) {
    if (freed.ok()) response.set_freed_bytes(*freed);
    done(freed.status());
  };
  const bool allow_missing = request.allow_missing();
  backend.adapters->Unload(
      request.name(), *mode,
      [&backend, &response, allow_missing, done = std::move(done),
       on_freed](absl::StatusOr<PreparedAdapterPtr> adapter) {
        if (!adapter.ok()) {
          const bool missing =
              GetErrorReason(adapter.status()) == ErrorReason::kAdapterNotFound;
          done(missing && allow_missing ? absl::OkStatus() : adapter.status());
          return;
        }
        response.set_sha256((*adapter)->sha256());
        backend.scheduler->ReleaseAdapter(*std::move(adapter), on_freed);
      });
}

// Changes what the mask names.
absl::Status CheckUpdate(const v1::UpdateAdapterRequest& request) {
  const auto& paths = request.update_mask().paths();
  if (paths.empty()) {
    return InvalidField("update_mask", "must name what to change: pinned");
  }
  for (const std::string& path : paths) {
    if (path == "pinned") continue;
    return InvalidField("update_mask",
                        absl::StrCat("names \"", EscapeUntrusted(path, 64),
                                     "\"; only pinned may change"));
  }
  return ValidateAdapterName(request.adapter().name(), "adapter.name");
}

absl::Status Update(const Backend& backend,
                    const v1::UpdateAdapterRequest& request,
                    v1::Adapter& response) {
  GRAFT_ASSIGN_OR_RETURN(
      const AdapterInfo info,
      backend.adapters->SetPinned(request.adapter().name(),
                                  request.adapter().pinned()));
  response = Describe(backend, info);
  return absl::OkStatus();
}

absl::Status Get(const Backend& backend, const v1::GetAdapterRequest& request,
                 v1::Adapter& response) {
  GRAFT_RETURN_IF_ERROR(ValidateAdapterName(request.name(), "name"));
  GRAFT_ASSIGN_OR_RETURN(const AdapterInfo info,
                         backend.adapters->Get(request.name()));
  response = Describe(backend, info);
  return absl::OkStatus();
}

// The page after the adapter whose name the token holds.
absl::Status List(const Backend& backend,
                  const v1::ListAdaptersRequest& request,
                  v1::ListAdaptersResponse& response) {
  std::string after;
  if (!absl::WebSafeBase64Unescape(request.page_token(), &after) ||
      (!after.empty() && !ValidateAdapterName(after, "page_token").ok())) {
    return InvalidField("page_token", "is none that ListAdapters returned");
  }
  const size_t page_size = request.page_size() == 0
                               ? kDefaultPageSize
                               : std::min(request.page_size(), kMaxPageSize);
  const std::vector<AdapterInfo> all = backend.adapters->List();
  auto next = std::find_if(
      all.begin(), all.end(),
      [&after](const AdapterInfo& info) { return info.name > after; });
  const BaseFamily family = backend.engine->info().family;
  const std::vector<AppliedAdapter> resident = backend.scheduler->resident();
  for (; next != all.end() &&
         static_cast<size_t>(response.adapters_size()) < page_size;
       ++next) {
    v1::Adapter& adapter = *response.add_adapters();
    adapter = ToProto(*next, family, resident);
    adapter.clear_metadata();  // it can be long; GetAdapter has it
  }
  if (next != all.end()) {
    response.set_next_page_token(
        absl::WebSafeBase64Escape(std::prev(next)->name));
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* AdapterServiceImpl::LoadAdapter(
    grpc::CallbackServerContext* context, const v1::LoadAdapterRequest* request,
    v1::LoadAdapterResponse* response) {
  return StartUnaryCall(
      environment_, context, "LoadAdapter", request->request_id(),
      [this, context, request, response](const Backend& backend,
                                         const RpcContext&, UnaryDone done) {
        if (pending_loads_.fetch_add(1) >= kMaxPendingLoads) {
          pending_loads_.fetch_sub(1);
          done(WithRetryDelay(
              Error(ErrorReason::kQueueFull,
                    absl::StrCat(kMaxPendingLoads,
                                 " adapters wait to be loaded; try again "
                                 "later")),
              absl::Seconds(1)));
          return;
        }
        UnaryDone over = [this,
                          done = std::move(done)](const absl::Status& status) {
          pending_loads_.fetch_sub(1);
          done(status);
        };
        backend.loader->Run([context, request, response, &backend,
                             over = std::move(over)]() mutable {
          if (context->IsCancelled()) {
            over(Error(ErrorReason::kClientCancelled,
                       "the client went away before the load began"));
            return;
          }
          Load(backend, *request, *response, std::move(over));
        });
      });
}

grpc::ServerReadReactor<v1::UploadAdapterRequest>*
AdapterServiceImpl::UploadAdapter(grpc::CallbackServerContext* context,
                                  v1::LoadAdapterResponse* response) {
  const auto take_place = [this]() -> absl::StatusOr<UploadReactor::Place> {
    // Only its end matters.
    UploadReactor::Place place(nullptr, [this](void*) { --uploads_; });
    if (++uploads_ <= kMaxUploads) return place;
    return WithRetryDelay(Error(ErrorReason::kQueueFull,
                                absl::StrCat(kMaxUploads,
                                             " uploads are running; try again "
                                             "later")),
                          absl::Seconds(1));
  };
  return new UploadReactor(environment_, context, response, take_place);
}

grpc::ServerUnaryReactor* AdapterServiceImpl::UnloadAdapter(
    grpc::CallbackServerContext* context,
    const v1::UnloadAdapterRequest* request,
    v1::UnloadAdapterResponse* response) {
  // By force it helps the server to drain.
  return StartUnaryCall(
      environment_, context, "UnloadAdapter", request->request_id(),
      [request, response](const Backend& backend, const RpcContext&,
                          UnaryDone done) {
        Unload(backend, *request, *response, std::move(done));
      },
      request->force() ? WhileDraining::kAnswer : WhileDraining::kRefuse);
}

grpc::ServerUnaryReactor* AdapterServiceImpl::UpdateAdapter(
    grpc::CallbackServerContext* context,
    const v1::UpdateAdapterRequest* request, v1::Adapter* response) {
  return StartUnaryCall(
      environment_, context, "UpdateAdapter", request->request_id(),
      [request, response](const Backend& backend, const RpcContext&,
                          UnaryDone done) {
        const std::string& name = request->adapter().name();
        absl::Status status = CheckUpdate(*request);
        if (status.ok()) status = backend.adapters->Get(name).status();
        if (!status.ok() || !request->adapter().pinned()) {
          done(status.ok() ? Update(backend, *request, *response) : status);
          return;
        }
        // To the device first; the pin keeps it there.
        backend.loader->Run([=, &backend, done = std::move(done)] {
          BringToDevice(
              backend, name,
              [=, &backend] { return Update(backend, *request, *response); },
              done);
        });
      });
}

grpc::ServerUnaryReactor* AdapterServiceImpl::GetAdapter(
    grpc::CallbackServerContext* context, const v1::GetAdapterRequest* request,
    v1::Adapter* response) {
  return StartUnaryCall(
      environment_, context, "GetAdapter", /*request_id=*/"",
      [request, response](const Backend& backend, const RpcContext&,
                          const UnaryDone& done) {
        done(Get(backend, *request, *response));
      },
      WhileDraining::kAnswer);
}

grpc::ServerUnaryReactor* AdapterServiceImpl::ListAdapters(
    grpc::CallbackServerContext* context,
    const v1::ListAdaptersRequest* request,
    v1::ListAdaptersResponse* response) {
  return StartUnaryCall(
      environment_, context, "ListAdapters", /*request_id=*/"",
      [request, response](const Backend& backend, const RpcContext&,
                          const UnaryDone& done) {
        done(List(backend, *request, *response));
      },
      WhileDraining::kAnswer);
}

}  // namespace graft

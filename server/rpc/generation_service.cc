#include "server/rpc/generation_service.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/request_validation.h"
#include "server/scheduling/generation_task.h"

namespace graft {
namespace {

// "ink=0.8,night=1", for the log.
std::string DescribeAdapters(const std::vector<AdapterChoice>& adapters) {
  return absl::StrJoin(
      adapters, ",", [](std::string* out, const AdapterChoice& adapter) {
        absl::StrAppend(out, adapter.name, "=", adapter.weight);
      });
}

// Pins what the request names: from here on its content is fixed.
absl::StatusOr<std::vector<RequestedAdapter>> AcquireAdapters(
    const std::vector<AdapterChoice>& choices, AdapterStore& store) {
  std::vector<RequestedAdapter> adapters;
  for (const AdapterChoice& choice : choices) {
    GRAFT_ASSIGN_OR_RETURN(AdapterHandle handle,
                           store.Acquire(choice.name, choice.sha256));
    for (const RequestedAdapter& other : adapters) {
      if (other.handle.sha256() == handle.sha256()) {
        return InvalidField(
            "adapters",
            absl::StrCat("adapters \"", other.handle.name(), "\" and \"",
                         choice.name, "\" have the same content; name one"));
      }
    }
    adapters.push_back(
        {std::move(handle), choice.weight, choice.text_encoder_weight});
  }
  return adapters;
}

// Validates `request` and hands it to the scheduler, which then reports to
// `reactor`.
absl::Status Start(const RpcEnvironment& environment,
                   const grpc::CallbackServerContext& context,
                   const v1::GenerateImageRequest& request,
                   GenerateReactor& reactor) {
  GRAFT_RETURN_IF_ERROR(reactor.call().Admit(context));
  GRAFT_ASSIGN_OR_RETURN(const Backend* const backend,
                         environment.state->Get());
  GRAFT_ASSIGN_OR_RETURN(
      GenerationRequest checked,
      ValidateGenerateImageRequest(request, backend->limits, backend->defaults,
                                   /*fresh_seed=*/std::random_device()()));
  RpcContext& rpc = reactor.call().context();
  rpc.adapters = DescribeAdapters(checked.adapters);

  auto task = std::make_unique<GenerationTask>();
  GRAFT_ASSIGN_OR_RETURN(task->adapters,
                         AcquireAdapters(checked.adapters, *backend->adapters));
  task->params = std::move(checked.params);
  task->count = checked.count;
  task->observer = reactor.MakeObserver(task->params.seed);
  task->cancelled = reactor.cancel_flag();
  task->deadline = rpc.deadline;
  task->request_id = rpc.request_id;
  task->traceparent = rpc.traceparent;
  task->tenant = rpc.tenant;
  return backend->scheduler->Submit(std::move(task));
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateImageResponse>*
GenerationServiceImpl::GenerateImage(grpc::CallbackServerContext* context,
                                     const v1::GenerateImageRequest* request) {
  const std::shared_ptr<GenerateReactor> reactor =
      GenerateReactor::Create(environment_, context, *request);
  const absl::Status started =
      Start(environment_, *context, *request, *reactor);
  if (!started.ok()) reactor->Fail(started);
  return reactor.get();
}

}  // namespace graft

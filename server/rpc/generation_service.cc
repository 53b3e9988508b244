#include "server/rpc/generation_service.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"
#include "server/rpc/generate_reactor.h"
#include "server/rpc/request_validation.h"
#include "server/rpc/unary_call.h"
#include "server/scheduling/generation_task.h"

namespace graft {
namespace {

// "ink=0.8@0-0.4", for the log.
std::string DescribeRange(absl::string_view name, const WeightRange& range) {
  return absl::StrCat(name, "=", range.weight, "@", range.from, "-", range.to);
}

// "ink=0.8,night=1", for the log.
std::string DescribeAdapters(const std::vector<AdapterChoice>& adapters) {
  return absl::StrJoin(
      adapters, ",", [](std::string* out, const AdapterChoice& adapter) {
        if (adapter.schedule.empty()) {
          absl::StrAppend(out, adapter.name, "=", adapter.weight);
          return;
        }
        absl::StrAppend(
            out,
            absl::StrJoin(adapter.schedule, ",",
                          [&](std::string* text, const WeightRange& range) {
                            text->append(DescribeRange(adapter.name, range));
                          }));
      });
}

// What the scheduler is to do, but for the adapters. It reports to
// `generation`.
std::unique_ptr<GenerationTask> MakeTask(
    const GenerationRequest& request, const RpcContext& rpc,
    const std::shared_ptr<SharedGeneration>& generation) {
  auto task = std::make_unique<GenerationTask>();
  task->params = request.params;
  task->count = request.count;
  task->preview_interval = request.preview_interval;
  task->priority = request.priority;
  task->observer = generation;
  task->cancelled = generation->cancel_flag();
  task->deadline = rpc.deadline;
  task->request_id = rpc.request_id;
  task->traceparent = rpc.traceparent;
  task->tenant = rpc.tenant;
  return task;
}

}  // namespace

absl::Status GenerationServiceImpl::Start(
    const grpc::CallbackServerContext& context,
    const v1::GenerateImageRequest& request, GenerateReactor& reactor) {
  GRAFT_RETURN_IF_ERROR(reactor.call().Admit(context));
  GRAFT_ASSIGN_OR_RETURN(const Backend* const backend,
                         environment_.state->Get());
  absl::BitGen fresh_seeds;  // std::random_device takes twenty microseconds
  GRAFT_ASSIGN_OR_RETURN(
      GenerationRequest checked,
      ValidateGenerateImageRequest(request, backend->limits, backend->defaults,
                                   absl::Uniform<uint32_t>(fresh_seeds)));
  RpcContext& rpc = reactor.call().context();
  rpc.adapters = DescribeAdapters(checked.adapters);
  GRAFT_ASSIGN_OR_RETURN(GenerationRegistry::Admission admission,
                         registry_.Admit(rpc.tenant, rpc.request_id, request,
                                         checked.params.seed));
  const std::shared_ptr<SharedGeneration>& generation = admission.generation;
  reactor.Listen(generation, std::move(admission.place));
  if (admission.is_new) {
    const absl::Status submitted = backend->requests->Submit(
        MakeTask(checked, rpc, generation), std::move(checked.adapters));
    // Others may have joined meanwhile: all of them hear of it.
    if (!submitted.ok()) generation->OnDone(submitted, {});
  }
  return absl::OkStatus();
}

grpc::ServerWriteReactor<v1::GenerateImageResponse>*
GenerationServiceImpl::GenerateImage(grpc::CallbackServerContext* context,
                                     const v1::GenerateImageRequest* request) {
  const std::shared_ptr<GenerateReactor> reactor =
      GenerateReactor::Create(environment_, context, *request, streams_);
  const absl::Status started = Start(*context, *request, *reactor);
  if (!started.ok()) reactor->Fail(started);
  return reactor.get();
}

grpc::ServerUnaryReactor* GenerationServiceImpl::CancelGeneration(
    grpc::CallbackServerContext* context,
    const v1::CancelGenerationRequest* request,
    v1::CancelGenerationResponse* response) {
  return StartUnaryCall(
      environment_, context, "CancelGeneration", request->request_id(),
      [this, request, response](const Backend&, const RpcContext& rpc,
                                const UnaryDone& done) {
        if (request->request_id().empty()) {
          done(InvalidField("request_id",
                            "must be the id of the request to cancel"));
          return;
        }
        response->set_was_running(
            registry_.Cancel(rpc.tenant, request->request_id()));
        done(absl::OkStatus());
      },
      WhileDraining::kAnswer);
}

}  // namespace graft

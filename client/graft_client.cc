#include "client/graft_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client_status.h"
#include "client/file_digest.h"
#include "client/health_check.h"

namespace graft {
namespace {

std::shared_ptr<grpc::ChannelCredentials> Credentials(
    const ChannelSecurity& security) {
  if (security.server_ca.empty()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = security.server_ca,
                               .pem_private_key = security.key,
                               .pem_cert_chain = security.certificate});
}

std::shared_ptr<grpc::Channel> Connect(const std::string& server,
                                       const ChannelSecurity& security) {
  grpc::ChannelArguments arguments;
  // Whether to try again is the user's decision.
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  return grpc::CreateCustomChannel(server, Credentials(security), arguments);
}

// Appends `chunk` to its image.
grpc::Status Collect(const v1::ImageChunk& chunk,
                     std::vector<std::string>& images) {
  const size_t index = chunk.image_index();
  if (index > images.size()) {
    return grpc::Status(grpc::StatusCode::DATA_LOSS,
                        "the server left out an image");
  }
  if (index == images.size()) images.emplace_back();
  images[index] += chunk.data();
  if (chunk.last() && images[index].size() != chunk.total_bytes()) {
    return grpc::Status(grpc::StatusCode::DATA_LOSS,
                        "the server left out a part of an image");
  }
  return grpc::Status::OK;
}

// What gRPC says when nobody listens does not help much.
absl::Status Explain(absl::Status status, const std::string& server) {
  if (status.code() != absl::StatusCode::kUnavailable ||
      ErrorReasonOf(status) != "NO_REASON") {
    return status;
  }
  return absl::UnavailableError(
      absl::StrCat(status.message(), " (is graftd running at ", server, "?)"));
}

}  // namespace

GraftClient::GraftClient(const Options& options)
    : options_(options),
      channel_(Connect(options.server, options.security)),
      generation_(v1::GenerationService::NewStub(channel_)),
      adapters_(v1::AdapterService::NewStub(channel_)),
      admin_(v1::AdminService::NewStub(channel_)) {}

absl::StatusOr<GraftClient::Generated> GraftClient::Generate(
    const v1::GenerateImageRequest& request, const ProgressCallback& on_event) {
  Generated generated;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    generated = {};  // of an attempt that failed half way
    return GenerateOnce(request, on_event, context, generated);
  });
  if (!status.ok()) return status;
  return generated;
}

grpc::Status GraftClient::GenerateOnce(const v1::GenerateImageRequest& request,
                                       const ProgressCallback& on_event,
                                       grpc::ClientContext& context,
                                       Generated& generated) {
  const auto reader = generation_->GenerateImage(&context, request);
  v1::GenerateImageResponse event;
  grpc::Status collected;
  while (collected.ok() && reader->Read(&event)) {
    if (event.has_image()) collected = Collect(event.image(), generated.images);
    if (event.has_finished()) generated.finished = event.finished();
    on_event(event);
  }
  if (!collected.ok()) context.TryCancel();
  const grpc::Status status = reader->Finish();
  return collected.ok() ? status : collected;
}

absl::StatusOr<v1::LoadAdapterResponse> GraftClient::LoadAdapter(
    const v1::LoadAdapterRequest& request) {
  v1::LoadAdapterResponse response;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return adapters_->LoadAdapter(&context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::LoadAdapterResponse> GraftClient::UploadAdapter(
    v1::UploadAdapterHeader header, const std::string& path) {
  const absl::StatusOr<FileDigest> digest = DigestFile(path);
  if (!digest.ok()) return digest.status();
  header.set_sha256(digest->sha256);
  header.set_size_bytes(digest->size);
  v1::LoadAdapterResponse response;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return UploadOnce(header, path, context, response);
  });
  if (!status.ok()) return status;
  return response;
}

grpc::Status GraftClient::UploadOnce(const v1::UploadAdapterHeader& header,
                                     const std::string& path,
                                     grpc::ClientContext& context,
                                     v1::LoadAdapterResponse& response) {
  constexpr size_t kChunkBytes = size_t{1} << 20;
  const auto writer = adapters_->UploadAdapter(&context, &response);
  v1::UploadAdapterRequest message;
  *message.mutable_header() = header;
  bool taken = writer->Write(message);
  std::ifstream file(path, std::ios::binary);
  std::string chunk(kChunkBytes, '\0');
  while (taken && file) {
    file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
    const auto size = static_cast<size_t>(file.gcount());
    if (size == 0) break;
    message.set_data(chunk.data(), size);
    taken = writer->Write(message);  // false: the server has answered already
  }
  writer->WritesDone();
  return writer->Finish();
}

absl::StatusOr<v1::UnloadAdapterResponse> GraftClient::UnloadAdapter(
    const v1::UnloadAdapterRequest& request) {
  v1::UnloadAdapterResponse response;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return adapters_->UnloadAdapter(&context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::Adapter> GraftClient::UpdateAdapter(
    const v1::UpdateAdapterRequest& request) {
  v1::Adapter adapter;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return adapters_->UpdateAdapter(&context, request, &adapter);
  });
  if (!status.ok()) return status;
  return adapter;
}

absl::StatusOr<std::vector<v1::Adapter>> GraftClient::ListAdapters() {
  std::vector<v1::Adapter> adapters;
  v1::ListAdaptersRequest request;
  do {
    v1::ListAdaptersResponse response;
    const absl::Status status = Call([&](grpc::ClientContext& context) {
      return adapters_->ListAdapters(&context, request, &response);
    });
    if (!status.ok()) return status;
    std::move(response.mutable_adapters()->begin(),
              response.mutable_adapters()->end(), std::back_inserter(adapters));
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return adapters;
}

absl::Status GraftClient::CheckHealth() {
  bool serving = false;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return graft::CheckHealth(channel_, context, serving);
  });
  if (!status.ok() || serving) return status;
  return WithErrorReason(
      absl::UnavailableError("the server is there, but does not serve: it "
                             "starts, drains, or its base is damaged"),
      "NOT_SERVING");
}

absl::StatusOr<v1::ServerInfo> GraftClient::GetServerInfo() {
  v1::ServerInfo info;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return admin_->GetServerInfo(&context, v1::GetServerInfoRequest(), &info);
  });
  if (!status.ok()) return status;
  return info;
}

absl::StatusOr<v1::ServerLoad> GraftClient::GetLoad() {
  v1::ServerLoad load;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return admin_->GetLoad(&context, v1::GetLoadRequest(), &load);
  });
  if (!status.ok()) return status;
  return load;
}

absl::StatusOr<uint32_t> GraftClient::Drain(
    const v1::DrainRequest& request,
    const std::function<void(uint32_t)>& on_left) {
  absl::Duration timeout = options_.timeout;
  if (request.timeout_ms() > 0) {
    // The server's answer, when its wait is over, takes a while, too.
    timeout = std::max(
        timeout, absl::Milliseconds(request.timeout_ms()) + absl::Seconds(5));
  }
  v1::DrainResponse response;
  const absl::Status status =
      CallWithin(timeout, [&](grpc::ClientContext& context) {
        const auto reader = admin_->Drain(&context, request);
        while (reader->Read(&response)) on_left(response.requests());
        return reader->Finish();
      });
  if (!status.ok()) return status;
  return response.requests();
}

absl::StatusOr<v1::VerifyBaseWeightsResponse> GraftClient::VerifyBaseWeights(
    const v1::VerifyBaseWeightsRequest& request) {
  v1::VerifyBaseWeightsResponse response;
  const absl::Status status = Call([&](grpc::ClientContext& context) {
    return admin_->VerifyBaseWeights(&context, request, &response);
  });
  if (!status.ok()) return status;
  return response;
}

absl::Status GraftClient::Call(const Attempt& attempt) {
  return CallWithin(options_.timeout, attempt);
}

absl::Status GraftClient::CallWithin(absl::Duration timeout,
                                     const Attempt& attempt) {
  const auto deadline =
      std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout);
  absl::Duration backoff = absl::Seconds(1);
  for (int tries_left = options_.retries;; --tries_left) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    if (!options_.token.empty()) {
      context.AddMetadata("authorization", "Bearer " + options_.token);
    }
    absl::Status status = FromGrpcStatus(attempt(context));
    const absl::Duration delay = RetryDelayOf(status).value_or(backoff);
    // A try after the deadline is none: better the error that there is now.
    const bool again = status.code() == absl::StatusCode::kUnavailable &&
                       tries_left > 0 &&
                       absl::FromChrono(deadline) > absl::Now() + delay;
    if (!again) return Explain(std::move(status), options_.server);
    options_.sleep(delay);
    backoff *= 2;
  }
}

}  // namespace graft

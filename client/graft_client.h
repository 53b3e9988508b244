#ifndef GRAFT_CLIENT_GRAFT_CLIENT_H_
#define GRAFT_CLIENT_GRAFT_CLIENT_H_

#include <grpcpp/channel.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "graft/v1/admin.grpc.pb.h"
#include "graft/v1/generation.grpc.pb.h"

namespace graft {

// How the connection is protected: the texts of PEM files.
struct ChannelSecurity {
  // Who may certify the server; empty: no TLS.
  std::string server_ca = "";
  // The client's own, for mutual TLS, with its key; empty: none.
  std::string certificate = "";
  std::string key = "";
};

// The API as functions: each sets a deadline, returns a StatusOr whose error
// keeps the server's reason (client_status.h), and tries again only if told to.
// Blocking; thread-safe.
class GraftClient {
 public:
  struct Options {
    std::string server = "127.0.0.1:50051";
    ChannelSecurity security = {};
    // Sent with every call; empty: none.
    std::string token = "";
    // Of one call, all tries together, and the waits between them.
    absl::Duration timeout = absl::Minutes(10);
    // How often a call is tried again after UNAVAILABLE, which is the one error
    // that says so: after the delay that the server asks for, else after 1, 2,
    // 4... seconds.
    int retries = 0;
    // For tests.
    std::function<void(absl::Duration)> sleep = absl::SleepFor;
  };

  // A whole answer of GenerateImage.
  struct Generated {
    std::vector<std::string> images;  // PNG files
    v1::Finished finished;
  };

  // Sees every message of the stream as it comes.
  using ProgressCallback =
      std::function<void(const v1::GenerateImageResponse& event)>;

  // Connects when it is first used.
  explicit GraftClient(const Options& options);

  absl::StatusOr<Generated> Generate(const v1::GenerateImageRequest& request,
                                     const ProgressCallback& on_event);
  absl::StatusOr<v1::LoadAdapterResponse> LoadAdapter(
      const v1::LoadAdapterRequest& request);
  // Sends the file `path`; `header` has all but its size and SHA-256.
  absl::StatusOr<v1::LoadAdapterResponse> UploadAdapter(
      v1::UploadAdapterHeader header, const std::string& path);
  absl::StatusOr<v1::UnloadAdapterResponse> UnloadAdapter(
      const v1::UnloadAdapterRequest& request);
  absl::StatusOr<v1::Adapter> UpdateAdapter(
      const v1::UpdateAdapterRequest& request);
  // All pages.
  absl::StatusOr<std::vector<v1::Adapter>> ListAdapters();
  // OK if the server serves; UNAVAILABLE with the reason NOT_SERVING if it is
  // there, but does not: it loads its model, drains, or its base is damaged.
  absl::Status CheckHealth();
  absl::StatusOr<v1::ServerInfo> GetServerInfo();
  absl::StatusOr<v1::ServerLoad> GetLoad();
  // Calls `on_left` with the number of requests that are left whenever it
  // changes; returns the last one. Takes as long as `request` is to wait, even
  // if that is longer than the timeout.
  absl::StatusOr<uint32_t> Drain(const v1::DrainRequest& request,
                                 const std::function<void(uint32_t)>& on_left);
  absl::StatusOr<v1::VerifyBaseWeightsResponse> VerifyBaseWeights(
      const v1::VerifyBaseWeightsRequest& request);

 private:
  using Attempt = std::function<grpc::Status(grpc::ClientContext&)>;

  // Makes the attempt, and perhaps more, within options_.timeout.
  absl::Status Call(const Attempt& attempt);
  absl::Status CallWithin(absl::Duration timeout, const Attempt& attempt);

  grpc::Status UploadOnce(const v1::UploadAdapterHeader& header,
                          const std::string& path, grpc::ClientContext& context,
                          v1::LoadAdapterResponse& response);

  grpc::Status GenerateOnce(const v1::GenerateImageRequest& request,
                            const ProgressCallback& on_event,
                            grpc::ClientContext& context, Generated& generated);

  const Options options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::GenerationService::Stub> generation_;
  const std::unique_ptr<v1::AdapterService::Stub> adapters_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
};

}  // namespace graft

#endif  // GRAFT_CLIENT_GRAFT_CLIENT_H_

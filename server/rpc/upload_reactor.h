#ifndef GRAFT_SERVER_RPC_UPLOAD_REACTOR_H_
#define GRAFT_SERVER_RPC_UPLOAD_REACTOR_H_

#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "graft/v1/adapter.pb.h"
#include "server/rpc/adapter_upload.h"
#include "server/rpc/rpc_context.h"
#include "server/rpc/rpc_environment.h"

namespace graft {

// The server's end of one UploadAdapter stream. Takes one message after the
// other; the disk is left to the backend's executors, and the next message is
// read when the last one is written. A client that sends nothing for
// write_timeout is cut off, and a stream counts among the uploads from its
// header on: silent ones keep nobody else out. Deletes itself when gRPC is done
// with it.
class UploadReactor : public grpc::ServerReadReactor<v1::UploadAdapterRequest> {
 public:
  // A place among the uploads that may run; given back when it is dropped.
  using Place = std::shared_ptr<void>;
  using TakePlace = std::function<absl::StatusOr<Place>()>;

  // Begins to read, or refuses. `environment`, `context` and `response` outlive
  // the stream.
  UploadReactor(const RpcEnvironment& environment,
                grpc::CallbackServerContext* context,
                v1::LoadAdapterResponse* response, const TakePlace& take_place);

  // gRPC calls these.
  void OnReadDone(bool ok) override;
  void OnDone() override { delete this; }

 private:
  absl::Status Admit(const RpcEnvironment& environment);

  // Waits for the next message, and for the timer: when both are over, OnRead
  // goes on. Until then the stream is not finished, and the context there.
  void Read();
  void OnTimer(bool expired);
  void OnRead();

  // A message has come. Loader.
  absl::Status Take();
  absl::Status TakeHeader();

  // All messages have come. Committer.
  absl::Status Commit();

  // Drops what is not complete, and ends the stream.
  void End(const absl::Status& status);

  grpc::CallbackServerContext* const context_;
  v1::LoadAdapterResponse* const response_;
  const TakePlace take_place_;
  const absl::Duration read_timeout_;
  RpcCall call_;
  const Backend* backend_ = nullptr;  // set once the call is admitted
  Place place_;
  v1::UploadAdapterRequest message_;
  bool message_came_ = false;  // else the stream is at its end, or broken
  std::unique_ptr<grpc::Alarm> timer_;
  std::atomic<int> under_way_{0};  // of the message and the timer
  std::atomic<bool> timed_out_{false};
  std::unique_ptr<AdapterUpload> upload_;  // from the header on
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_UPLOAD_REACTOR_H_

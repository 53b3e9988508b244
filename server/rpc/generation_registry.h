#ifndef GRAFT_SERVER_RPC_GENERATION_REGISTRY_H_
#define GRAFT_SERVER_RPC_GENERATION_REGISTRY_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "graft/v1/generation.pb.h"
#include "server/rpc/shared_generation.h"
#include "server/scheduling/generation_observer.h"

namespace graft {

// Which request has which id: so that it can be cancelled, and sent again
// without its being computed again. Ids belong to a tenant. Remembers the
// requests that run, and of the finished ones those whose client chose an id,
// the newest, as far as their images fit. Thread-safe.
class GenerationRegistry {
 public:
  // A request and its place.
  struct Admission {
    std::shared_ptr<SharedGeneration> generation;
    // The caller's: to Join with at once.
    SharedGeneration::Place place;
    // The caller sees to it that the request runs, or calls OnDone with an
    // error. False: it runs or has run.
    bool is_new = false;
  };

  // Told of each request that is over.
  using Finished =
      std::function<void(const absl::Status&, const GenerationSummary&)>;

  // `max_finished_bytes`: of finished requests that are remembered.
  GenerationRegistry(Finished on_finished, int64_t max_finished_bytes)
      : on_finished_(std::move(on_finished)),
        max_finished_bytes_(max_finished_bytes) {}

  GenerationRegistry(const GenerationRegistry&) = delete;
  GenerationRegistry& operator=(const GenerationRegistry&) = delete;

  // The request of `tenant` with this id: a new one with `first_seed`, or the
  // one that is known, if it is the same request. INVALID_FIELD (field
  // "request_id") if it is another, or one whose id the server made: nothing of
  // that is kept for those who come later. QUEUE_FULL if too many streams have
  // joined it. A request that was cancelled or has failed is not known. The
  // registry outlives the generations that it gives.
  absl::StatusOr<Admission> Admit(const std::string& tenant,
                                  const std::string& request_id,
                                  const v1::GenerateImageRequest& request,
                                  uint64_t first_seed) ABSL_LOCKS_EXCLUDED(mu_);

  // Cancels a request that waits or runs; false if there is none.
  bool Cancel(const std::string& tenant, const std::string& request_id)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using Key = std::pair<std::string, std::string>;  // tenant, id
  struct Entry {
    std::shared_ptr<SharedGeneration> generation;
    std::string recipe;   // the request without its id
    bool own_id = false;  // its client chose the id
    bool finished = false;
  };

  // `generation` is over.
  void OnDone(const Key& key, const SharedGeneration& generation, bool keep)
      ABSL_LOCKS_EXCLUDED(mu_);

  // What a finished request counts for.
  static int64_t Cost(const Entry& entry);

  const Finished on_finished_;
  const int64_t max_finished_bytes_;
  absl::Mutex mu_;
  std::map<Key, Entry> entries_ ABSL_GUARDED_BY(mu_);
  std::deque<Key> finished_ ABSL_GUARDED_BY(mu_);  // the oldest first
  int64_t finished_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_GENERATION_REGISTRY_H_

#ifndef GRAFT_TESTS_CHAOS_MIXED_LOAD_H_
#define GRAFT_TESTS_CHAOS_MIXED_LOAD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/graft_client.h"
#include "tests/chaos/generate_call.h"
#include "tests/chaos/golden_images.h"
#include "tests/chaos/style_shelf.h"

namespace graft {

// What the clients saw, all together.
struct LoadTally {
  // GenerateImage: answers that came from the server, by code and by reason.
  std::map<std::string, int> codes;
  std::map<std::string, int> reasons;
  // Calls that ended at the client (deadline, dropped stream): what the server
  // made of them it alone knows. Those of the second kind were accepted.
  int unheard = 0;
  int unheard_accepted = 0;
  // The other methods, but for ListAdapters with its pages: calls, by name.
  std::map<std::string, int> calls;
  int images = 0;
  // Of those compared by ComparePngs, with batching.
  int images_that_differ = 0;
  int max_difference = 0;
  double max_mean_difference = 0;
  // Each with what is wrong.
  std::vector<std::string> mistakes;
};

// Many clients that use one daemon at once, and know what it must answer:
// images of known recipes, while adapters are loaded, unloaded and replaced,
// streams are cancelled and dropped, and deadlines pass.
class MixedLoad {
 public:
  struct Options {
    std::string server;
    int clients = 32;
    uint64_t seed = 1;
    // Every image is the golden one, byte for byte; else its text is, and its
    // pixels are about the same.
    bool exact = true;
    // Deadlines are up to this.
    absl::Duration longest_deadline = absl::Seconds(1);
    // Called as often as a client begins a request, with how many have begun.
    std::function<void(int)> on_request = [](int) {};
  };

  // All outlive it.
  MixedLoad(const Options& options, const StyleShelf* shelf,
            const std::vector<Recipe>* recipes, const GoldenImages* golden);
  ~MixedLoad();

  // Has the clients make `requests` calls of GenerateImage, and others. May be
  // called again: the clients' connections stay.
  void Run(int requests);

  LoadTally tally() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // What a client does to a request of its own.
  enum class Harm { kNone, kVersion, kCancel, kDrop, kDeadline };
  struct Client;

  void RunClient(Client& client);
  void MakeRequest(Client& client);
  void ManageAdapters(Client& client);
  void LoadStyle(Client& client, size_t style);
  void UnloadStyle(Client& client, size_t style);
  void ListAdapters(Client& client);

  void CheckAnswer(size_t recipe, Harm harm, const GenerateAnswer& answer)
      ABSL_LOCKS_EXCLUDED(mu_);
  void CheckImage(size_t recipe, const GenerateAnswer& answer)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Counts a call of another method, which may end with `reasons` only.
  void CheckCall(const std::string& method, const absl::Status& status,
                 const std::vector<std::string>& reasons)
      ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  const StyleShelf& shelf_;
  const std::vector<Recipe>& recipes_;
  const GoldenImages& golden_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::atomic<int> begun_{0};
  int wanted_ = 0;  // changed between runs only

  mutable absl::Mutex mu_;
  LoadTally tally_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_MIXED_LOAD_H_

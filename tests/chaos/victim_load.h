#ifndef GRAFT_TESTS_CHAOS_VICTIM_LOAD_H_
#define GRAFT_TESTS_CHAOS_VICTIM_LOAD_H_

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "graft/v1/generation.pb.h"
#include "tests/chaos/chaos_model.h"
#include "tests/testing/temp_dir.h"

namespace graft {

// The adapter directory of daemons that are ended one after the other, and the
// clients who use them until that happens: some generate, some upload, one
// loads and unloads.
class VictimLoad {
 public:
  // How calls may end besides well, once the daemon is ending.
  enum class Ending {
    kKilled,       // any may break off
    kDrained,      // what was accepted is finished
    kDrainedSoon,  // or cancelled
  };

  struct Report {
    std::map<std::string, int> endings;  // calls by method and status
    std::vector<std::string> mistakes;
  };

  // Makes the golden images with daemons of these flags.
  VictimLoad(const ChaosModel& model, const std::vector<std::string>& flags);

  // What a daemon needs beside the flags.
  std::vector<std::string> Flags() const;

  // Has all clients call until their daemon is gone.
  void Run(const std::string& address, Ending ending, std::mt19937_64& random);

  // Makes the image of each recipe: a daemon that was just started.
  void CheckGolden(const std::string& address);

  // Uploads that were broken off and lie about.
  int CountLeftovers() const;
  // Every file is whole: one of those that were written here.
  void CheckFiles();

  Report report() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // True while the daemon answers.
  bool GenerateOnce(const std::string& address, Ending ending, size_t recipe);
  bool UploadOnce(const std::string& address, Ending ending, int content);
  void Generate(const std::string& address, Ending ending, uint64_t seed);
  void Upload(const std::string& address, Ending ending, uint64_t seed);
  void LoadAndUnload(const std::string& address, Ending ending);

  // Counts a call; true if it ended well. A mistake unless it may end so.
  bool Check(absl::string_view method, const absl::Status& status,
             const std::vector<std::string>& reasons) ABSL_LOCKS_EXCLUDED(mu_);
  void AddMistake(const std::string& mistake) ABSL_LOCKS_EXCLUDED(mu_);

  const ChaosModel& model_;
  TempDir dir_;
  std::set<std::string> written_;  // contents that files may have
  std::vector<v1::GenerateImageRequest> requests_;
  std::vector<std::string> golden_;

  mutable absl::Mutex mu_;
  Report report_ ABSL_GUARDED_BY(mu_);
};

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_VICTIM_LOAD_H_

#include "server/common/temporary_files.h"

#include <unistd.h>

#include <set>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace graft {
namespace {

struct Paths {
  absl::Mutex mu;
  std::multiset<std::string> all ABSL_GUARDED_BY(mu);
};

Paths& ThePaths() {
  static Paths& paths = *new Paths;  // as long as the process
  return paths;
}

}  // namespace

TemporaryFile::TemporaryFile(std::string path) : path_(std::move(path)) {
  Paths& paths = ThePaths();
  absl::MutexLock lock(&paths.mu);
  paths.all.insert(path_);
}

TemporaryFile::~TemporaryFile() {
  Paths& paths = ThePaths();
  absl::MutexLock lock(&paths.mu);
  paths.all.erase(paths.all.find(path_));
}

void RemoveTemporaryFiles() {
  Paths& paths = ThePaths();
  absl::MutexLock lock(&paths.mu);
  for (const std::string& path : paths.all) unlink(path.c_str());
}

}  // namespace graft

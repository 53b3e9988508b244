#ifndef GRAFT_SERVER_COMMON_TEMPORARY_FILES_H_
#define GRAFT_SERVER_COMMON_TEMPORARY_FILES_H_

#include <string>

namespace graft {

// A temporary file that whoever made it removes or renames: for as long as this
// object lives, RemoveTemporaryFiles() removes it, too.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// Removes the temporary files of all, for a process that ends at once and runs
// no destructor. Thread-safe.
void RemoveTemporaryFiles();

}  // namespace graft

#endif  // GRAFT_SERVER_COMMON_TEMPORARY_FILES_H_

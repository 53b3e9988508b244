#ifndef GRAFT_SERVER_SAFETENSORS_SAFETENSORS_WRITER_H_
#define GRAFT_SERVER_SAFETENSORS_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/common/temporary_files.h"
#include "server/safetensors/tensor_view.h"

namespace graft {

// Writes a safetensors file tensor by tensor, to a temporary file beside `path`
// that takes its place when it is complete and on disk: nobody ever sees half a
// file under that name.
//
//   GRAFT_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path,
//   entries,
//                                                                 metadata));
//   for (...) GRAFT_RETURN_IF_ERROR(writer->Append(bytes));
//   GRAFT_RETURN_IF_ERROR(writer->Finish());
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    TensorDtype dtype = TensorDtype::kF32;
    std::vector<int64_t> shape;
  };

  // INVALID_FIELD (field "path") names the path and what the system says.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, const std::vector<Entry>& entries,
      const std::map<std::string, std::string>& metadata);

  // Removes the temporary file unless Finish() succeeded.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of the data, in the order of the entries. Errors as Create.
  absl::Status Append(absl::Span<const uint8_t> bytes);

  // REQUIRES: all bytes were appended.
  absl::Status Finish();

 private:
  SafetensorsWriter(std::string path, std::string temporary, int fd);
  absl::Status Problem() const;

  const std::string path_;
  const TemporaryFile temporary_;
  int fd_;
};

}  // namespace graft

#endif  // GRAFT_SERVER_SAFETENSORS_SAFETENSORS_WRITER_H_

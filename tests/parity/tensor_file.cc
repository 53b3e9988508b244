#include "tests/parity/tensor_file.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/common/status_macros.h"
#include "server/engine/weights/weight_store.h"
#include "server/safetensors/safetensors_file.h"

namespace graft {
namespace {

absl::StatusOr<std::string> FormatName(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "F32";
    case at::kHalf:
      return "F16";
    case at::kBFloat16:
      return "BF16";
    case at::kByte:
      return "U8";
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("cannot write tensors of ", c10::toString(dtype)));
  }
}

}  // namespace

absl::StatusOr<Tensors> ReadTensors(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const SafetensorsFile file,
                         SafetensorsFile::Map(path, SafetensorsFile::Limits()));
  Tensors tensors;
  for (const auto& [name, view] : file.tensors()) {
    tensors[name] = CopyToTensor(view);
  }
  return tensors;
}

absl::Status WriteTensors(const Tensors& tensors, const std::string& path) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor host = tensor.contiguous();
    GRAFT_ASSIGN_OR_RETURN(const std::string dtype,
                           FormatName(host.scalar_type()));
    const size_t begin = data.size();
    data.append(static_cast<const char*>(host.data_ptr()), host.nbytes());
    header[name] = {{"dtype", dtype},
                    {"shape", host.sizes().vec()},
                    {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();  // little-endian, as the format is
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(&length), sizeof(length));
  stream << text << data;
  stream.close();
  return stream ? absl::OkStatus()
                : absl::UnknownError(absl::StrCat(path, ": cannot be written"));
}

}  // namespace graft

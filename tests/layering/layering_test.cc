// Reads the #include lines of client/ and server/ and compares them with the
// arrows of ARCHITECTURE.md: which room may use which.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

// The files whose path starts with one of `files` may include our own files
// that start with one of `ours`, and third-party headers that start with one of
// `special`, beyond those that everybody may. The first room that fits a file
// counts.
struct Room {
  std::string name;
  std::vector<std::string> files;
  std::vector<std::string> ours;
  std::vector<std::string> special;
};

// Third-party headers that belong to few rooms. All others are free for all.
const std::vector<std::string> kSpecialHeaders = {
    "ATen/",    "CLI/",    "absl/flags/", "c10/",      "cuda",
    "grpc/",    "grpcpp/", "google/",     "graft/v1/", "nlohmann/",
    "openssl/", "png.h",   "re2/",        "spdlog/",   "torch/"};

const std::vector<std::string> kPublicEngine = {
    "server/engine/adapter_weights.h",   "server/engine/device_lost.cc",
    "server/engine/device_lost.h",       "server/engine/engine.h",
    "server/engine/engine_names.cc",     "server/engine/engine_options.h",
    "server/engine/generation_params.h", "server/engine/module_table.h",
    "server/engine/torch_engine.h"};

std::vector<std::string> Join(std::vector<std::string> a,
                              const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// The table. Everything in server/ may use server/common/.
const std::vector<Room>& Rooms() {
  static const auto* const rooms = new std::vector<Room>{
      {"client",
       {"client/"},
       {"client/"},
       {"CLI/", "google/", "graft/v1/", "grpc/", "grpcpp/", "nlohmann/",
        "openssl/"}},
      {"common",
       {"server/common/"},
       {"server/common/"},
       {"openssl/", "spdlog/"}},
      {"image",
       {"server/image/"},
       {"server/common/", "server/image/"},
       {"png.h"}},
      {"safetensors",
       {"server/safetensors/"},
       {"server/common/", "server/safetensors/"},
       {"nlohmann/"}},
      {"tokenizer",
       {"server/tokenizer/"},
       {"server/common/", "server/tokenizer/"},
       {"nlohmann/"}},
      {"engine (public)",
       kPublicEngine,
       Join({"server/common/", "server/image/image.h",
             "server/safetensors/tensor_view.h"},
            kPublicEngine),
       {}},
      {"engine (private)",
       {"server/engine/"},
       {"server/common/", "server/engine/", "server/image/image.h",
        "server/safetensors/", "server/tokenizer/"},
       {"ATen/", "c10/", "cuda", "nlohmann/", "torch/"}},
      {"adapters",
       {"server/adapters/"},
       Join({"server/adapters/", "server/common/", "server/safetensors/"},
            kPublicEngine),
       {"nlohmann/", "re2/"}},
      {"scheduling",
       {"server/scheduling/"},
       Join({"server/adapters/", "server/common/", "server/image/",
             "server/scheduling/"},
            kPublicEngine),
       {"nlohmann/"}},
      {"rpc",
       {"server/rpc/"},
       Join({"server/adapters/", "server/common/", "server/image/",
             "server/rpc/", "server/scheduling/"},
            kPublicEngine),
       {"google/", "graft/v1/", "grpc/", "grpcpp/", "openssl/"}},
      {"daemon",
       {"server/daemon", "server/main.cc", "server/process",
        "server/weight_export"},
       Join({"server/adapters/", "server/common/", "server/daemon",
             "server/process.h", "server/rpc/", "server/scheduling/",
             "server/weight_export.h"},
            kPublicEngine),
       {"absl/flags/", "nlohmann/", "prometheus/"}},
  };
  return *rooms;
}

bool StartsWithAny(const std::string& text,
                   const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(),
                     [&](const std::string& prefix) {
                       return absl::StartsWith(text, prefix);
                     });
}

// What is wrong with `file` (a path from the root) including `included`; empty
// if nothing.
std::string Judge(const std::string& file, const std::string& included) {
  const auto room =
      std::find_if(Rooms().begin(), Rooms().end(), [&](const Room& candidate) {
        return StartsWithAny(file, candidate.files);
      });
  if (room == Rooms().end()) return file + " belongs to no room";
  const bool is_ours =
      StartsWithAny(included, {"server/", "client/", "tests/"});
  const bool allowed = is_ours ? StartsWithAny(included, room->ours)
                               : !StartsWithAny(included, kSpecialHeaders) ||
                                     StartsWithAny(included, room->special);
  if (allowed) return "";
  return absl::StrCat(file, " (room ", room->name, ") may not include ",
                      included);
}

std::vector<std::string> IncludesOf(const std::filesystem::path& path) {
  static const std::regex pattern(R"re(^\s*#\s*include\s*["<]([^">]+)[">])re");
  std::ifstream file(path);
  std::vector<std::string> includes;
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (std::regex_search(line, match, pattern)) includes.push_back(match[1]);
  }
  return includes;
}

bool IsSource(const std::filesystem::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".h" || extension == ".cc" || extension == ".cu" ||
         extension == ".cuh";
}

TEST(LayeringTest, EveryIncludeFollowsTheArrows) {
  const std::filesystem::path root(GRAFT_SOURCE_DIR);
  int files = 0;
  std::vector<std::string> wrong;
  for (const char* const folder : {"client", "server"}) {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      ++files;
      const std::string file =
          std::filesystem::relative(entry.path(), root).string();
      for (const std::string& included : IncludesOf(entry.path())) {
        const std::string verdict = Judge(file, included);
        if (!verdict.empty()) wrong.push_back(verdict);
      }
    }
  }
  EXPECT_GT(files, 50);  // the tree was really read
  EXPECT_THAT(wrong, IsEmpty());
}

// The table itself bites.
TEST(LayeringTest, SeesForbiddenArrows) {
  const std::pair<const char*, const char*> kForbidden[] = {
      {"client/graft_client.cc", "server/common/error.h"},
      {"server/common/log.cc", "server/rpc/rpc_context.h"},
      {"server/scheduling/request_queue.cc", "grpcpp/server.h"},
      {"server/scheduling/request_queue.cc", "torch/torch.h"},
      {"server/scheduling/request_queue.cc",
       "server/engine/weights/undo_log.h"},
      {"server/rpc/generation_service.cc", "ATen/Tensor.h"},
      {"server/rpc/generation_service.cc", "server/engine/models/layers.h"},
      {"server/engine/engine.h", "torch/torch.h"},
      {"server/engine/weights/undo_log.cc", "graft/v1/admin.pb.h"},
      {"server/engine/torch_engine.cc", "server/scheduling/request_queue.h"},
      {"server/adapters/adapter_store.cc", "server/engine/models/layers.h"},
      {"server/common/log.cc", "tests/testing/fake_engine.h"},
      {"server/rpc/generation_service.cc", "absl/flags/flag.h"},
      {"server/new_room/file.cc", "vector"},
  };
  for (const auto& [file, included] : kForbidden) {
    EXPECT_NE(Judge(file, included), "") << file << " " << included;
  }
}

TEST(LayeringTest, SeesAllowedArrows) {
  EXPECT_EQ(Judge("server/rpc/a.cc", "server/scheduling/b.h"), "");
  EXPECT_EQ(Judge("server/rpc/a.cc", "absl/status/status.h"), "");
  EXPECT_EQ(Judge("server/engine/torch_engine.cc", "torch/torch.h"), "");
  EXPECT_EQ(Judge("server/scheduling/a.cc", "server/engine/engine.h"), "");
  EXPECT_EQ(Judge("client/main.cc", "graft/v1/admin.grpc.pb.h"), "");
}

}  // namespace
}  // namespace graft

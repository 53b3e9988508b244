#include "tests/chaos/victim_load.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/client_status.h"
#include "client/graft_client.h"
#include "graft/v1/adapter.grpc.pb.h"
#include "server/common/sha256.h"
#include "tests/chaos/generate_call.h"
#include "tests/chaos/golden_images.h"

namespace graft {
namespace {

namespace fs = std::filesystem;

constexpr int kGenerators = 3;
constexpr int kUploads = 4;  // names that are uploaded
// Contents of uploads, and where ChaosModel's numbers of them begin.
constexpr int kUploadContents = 4;
constexpr int kFirstUploadContent = 100;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

v1::GenerateImageRequest MakeRequest(uint64_t seed, uint32_t steps,
                                     const std::vector<std::string>& adapters) {
  v1::GenerateImageRequest request;
  request.set_prompt("a star");
  request.set_width(16);
  request.set_height(16);
  request.set_steps(steps);
  request.set_seed(seed);
  for (const std::string& name : adapters) {
    request.add_adapters()->set_name(name);
  }
  return request;
}

// Sends the file in pieces, so that the daemon's end can come between two.
absl::Status SendFile(v1::AdapterService::Stub& stub, const std::string& name,
                      const std::string& bytes) {
  constexpr size_t kPieces = 8;
  v1::LoadAdapterResponse response;
  grpc::ClientContext context;
  const auto writer = stub.UploadAdapter(&context, &response);
  v1::UploadAdapterRequest message;
  message.mutable_header()->set_name(name);
  message.mutable_header()->set_sha256(Sha256Hex(bytes.data(), bytes.size()));
  message.mutable_header()->set_size_bytes(bytes.size());
  message.mutable_header()->set_allow_replace(true);
  bool taken = writer->Write(message);
  const size_t size = bytes.size() / kPieces + 1;
  for (size_t at = 0; taken && at < bytes.size(); at += size) {
    message.set_data(bytes.substr(at, size));
    taken = writer->Write(message);
  }
  writer->WritesDone();
  return FromGrpcStatus(writer->Finish());
}

// How a call may end when its daemon does; `accepted` if it had begun.
std::vector<std::string> Endings(VictimLoad::Ending ending, bool accepted) {
  std::vector<std::string> endings;
  if (ending == VictimLoad::Ending::kKilled || !accepted) {
    endings = {"UNAVAILABLE NO_REASON", "UNAVAILABLE DRAINING",
               "UNAVAILABLE STARTING"};
  }
  if (ending == VictimLoad::Ending::kDrainedSoon) {
    endings.push_back("CANCELLED ADMIN_CANCELLED");
  }
  return endings;
}

}  // namespace

VictimLoad::VictimLoad(const ChaosModel& model,
                       const std::vector<std::string>& flags)
    : model_(model) {
  const std::vector<NamedContent> adapters = {{"ink", model.AdapterFile(0)},
                                              {"night", model.AdapterFile(5)}};
  for (const NamedContent& adapter : adapters) {
    dir_.Write(adapter.name + ".safetensors", adapter.bytes);
    written_.insert(adapter.bytes);
  }
  for (int i = 0; i < kUploadContents; ++i) {
    written_.insert(model.AdapterFile(kFirstUploadContent + i));
  }
  requests_ = {MakeRequest(1, 5, {}), MakeRequest(2, 20, {"ink"}),
               MakeRequest(3, 10, {"night"}),
               MakeRequest(4, 40, {"night", "ink"})};
  golden_ = MakeImages(flags, adapters, requests_);
}

std::vector<std::string> VictimLoad::Flags() const {
  return {"--adapter_dir=" + dir_.path(), "--autoload"};
}

void VictimLoad::Run(const std::string& address, Ending ending,
                     std::mt19937_64& random) {
  std::vector<std::thread> clients;
  for (int i = 0; i < kGenerators; ++i) {
    clients.emplace_back(
        [=, this, seed = random()] { Generate(address, ending, seed); });
  }
  clients.emplace_back(
      [=, this, seed = random()] { Upload(address, ending, seed); });
  clients.emplace_back([=, this] { LoadAndUnload(address, ending); });
  for (std::thread& client : clients) client.join();
}

void VictimLoad::Generate(const std::string& address, Ending ending,
                          uint64_t seed) {
  std::mt19937_64 random(seed);
  while (GenerateOnce(address, ending, random() % requests_.size())) continue;
}

bool VictimLoad::GenerateOnce(const std::string& address, Ending ending,
                              size_t recipe) {
  const auto stub = v1::GenerationService::NewStub(OwnChannel(address));
  grpc::ClientContext context;
  const GenerateAnswer answer =
      CallGenerate(*stub, requests_[recipe], context, [] {});
  if (!Check(answer.accepted ? "generate (accepted)" : "generate",
             answer.status, Endings(ending, answer.accepted))) {
    return false;
  }
  if (answer.image != golden_[recipe]) {
    AddMistake(absl::StrCat("recipe ", recipe, " gave another image"));
  }
  return true;
}

void VictimLoad::Upload(const std::string& address, Ending ending,
                        uint64_t seed) {
  std::mt19937_64 random(seed);
  while (UploadOnce(address, ending, static_cast<int>(random() % 1000))) {
    continue;
  }
}

bool VictimLoad::UploadOnce(const std::string& address, Ending ending,
                            int number) {
  const auto stub = v1::AdapterService::NewStub(OwnChannel(address));
  const std::string bytes =
      model_.AdapterFile(kFirstUploadContent + number % kUploadContents);
  return Check(
      "upload",
      SendFile(*stub, absl::StrCat("upload", number % kUploads), bytes),
      Endings(ending, /*accepted=*/false));
}

void VictimLoad::LoadAndUnload(const std::string& address, Ending ending) {
  GraftClient client({.server = address});
  v1::LoadAdapterRequest load;
  load.set_path("ink.safetensors");
  load.set_name("pencil");
  v1::UnloadAdapterRequest unload;
  unload.set_name("pencil");
  const std::vector<std::string> reasons = Endings(ending, /*accepted=*/false);
  while (Check("load", client.LoadAdapter(load).status(), reasons) &&
         Check("unload", client.UnloadAdapter(unload).status(), reasons)) {
    continue;
  }
}

void VictimLoad::CheckGolden(const std::string& address) {
  for (size_t i = 0; i < requests_.size(); ++i) {
    // Nothing may go wrong here, whatever went wrong before.
    const auto stub = v1::GenerationService::NewStub(OwnChannel(address));
    grpc::ClientContext context;
    const GenerateAnswer answer =
        CallGenerate(*stub, requests_[i], context, [] {});
    if (Check("first image", answer.status, {}) && answer.image != golden_[i]) {
      AddMistake(absl::StrCat("recipe ", i, " gave another image at first"));
    }
  }
}

int VictimLoad::CountLeftovers() const {
  return static_cast<int>(std::count_if(
      fs::directory_iterator(dir_.path()), fs::directory_iterator(),
      [](const fs::directory_entry& entry) {
        return absl::StartsWith(entry.path().filename().string(), ".");
      }));
}

void VictimLoad::CheckFiles() {
  for (const auto& entry : fs::directory_iterator(dir_.path())) {
    const std::string name = entry.path().filename().string();
    if (written_.count(ReadFile(entry.path())) == 0) {
      AddMistake(absl::StrCat(name, " is not whole"));
    }
  }
}

bool VictimLoad::Check(absl::string_view method, const absl::Status& status,
                       const std::vector<std::string>& reasons) {
  const std::string ending =
      status.ok() ? "OK"
                  : absl::StrCat(absl::StatusCodeToString(status.code()), " ",
                                 ErrorReasonOf(status));
  absl::MutexLock lock(&mu_);
  ++report_.endings[absl::StrCat(method, ": ", ending)];
  if (!status.ok() &&
      std::find(reasons.begin(), reasons.end(), ending) == reasons.end()) {
    report_.mistakes.push_back(
        absl::StrCat(method, " ended with ", DescribeError(status)));
  }
  return status.ok();
}

void VictimLoad::AddMistake(const std::string& mistake) {
  absl::MutexLock lock(&mu_);
  report_.mistakes.push_back(mistake);
}

VictimLoad::Report VictimLoad::report() const {
  absl::MutexLock lock(&mu_);
  return report_;
}

}  // namespace graft

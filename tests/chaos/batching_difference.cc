// Measures how much sharing a batch may change an image:
//
//   batching_difference MODEL_DIR ADAPTER_DIR [REQUESTS]
//
// The images of a few recipes, with no adapter and with each in ADAPTER_DIR,
// are made alone by a graftd with --batching=off, then by many clients at once
// with --batching=on, and compared.

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "tests/chaos/generate_call.h"
#include "tests/chaos/png_difference.h"
#include "tests/integration/daemon_process.h"

namespace graft {
namespace {

constexpr int kClients = 8;
constexpr int kSeeds = 2;  // recipes of each adapter

std::vector<v1::GenerateImageRequest> MakeRecipes(
    const std::string& adapter_dir) {
  std::vector<std::string> adapters = {""};
  for (const auto& entry : std::filesystem::directory_iterator(adapter_dir)) {
    if (entry.path().extension() == ".safetensors") {
      adapters.push_back(entry.path().stem().string());
    }
  }
  std::vector<v1::GenerateImageRequest> recipes;
  for (const std::string& adapter : adapters) {
    for (uint64_t seed = 0; seed < kSeeds; ++seed) {
      v1::GenerateImageRequest& recipe = recipes.emplace_back();
      recipe.set_prompt("a red circle and a blue square");
      recipe.set_steps(10);
      recipe.set_seed(seed);
      if (!adapter.empty()) recipe.add_adapters()->set_name(adapter);
    }
  }
  return recipes;
}

std::string MakeImage(const std::string& server,
                      const v1::GenerateImageRequest& request) {
  const auto stub = v1::GenerationService::NewStub(OwnChannel(server));
  grpc::ClientContext context;
  const GenerateAnswer answer = CallGenerate(*stub, request, context, [] {});
  if (!answer.status.ok()) {
    std::cerr << answer.status << std::endl;
    std::exit(EXIT_FAILURE);
  }
  return answer.image;
}

// What was found of all images together.
struct Findings {
  int images = 0;
  int differing = 0;
  PngDifference largest;  // each of its numbers on its own
};

Findings Measure(const std::vector<std::string>& flags,
                 const std::vector<v1::GenerateImageRequest>& recipes,
                 const std::vector<std::string>& golden, int requests) {
  std::vector<std::string> all_flags = flags;
  all_flags.push_back("--batching=on");
  DaemonProcess daemon(all_flags);
  if (!daemon.WaitUntilServing()) std::exit(EXIT_FAILURE);
  absl::Mutex mu;
  Findings findings;
  std::atomic<int> next{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      for (int number; (number = next++) < requests;) {
        const size_t recipe = static_cast<size_t>(number) % recipes.size();
        const std::string image = MakeImage(daemon.address(), recipes[recipe]);
        const PngDifference difference = ComparePngs(image, golden[recipe]);
        absl::MutexLock lock(&mu);
        ++findings.images;
        if (difference.max > 0) ++findings.differing;
        findings.largest = {std::max(findings.largest.max, difference.max),
                            std::max(findings.largest.mean, difference.mean)};
      }
    });
  }
  for (std::thread& client : clients) client.join();
  return findings;
}

int Run(const std::string& model, const std::string& adapters, int requests) {
  const std::vector<std::string> flags = {"--model=" + model,
                                          "--adapter_dir=" + adapters,
                                          "--autoload", "--log_level=error"};
  const std::vector<v1::GenerateImageRequest> recipes = MakeRecipes(adapters);
  std::vector<std::string> golden;
  {
    std::vector<std::string> off = flags;
    off.push_back("--batching=off");
    DaemonProcess daemon(off);
    if (!daemon.WaitUntilServing()) return EXIT_FAILURE;
    for (const v1::GenerateImageRequest& recipe : recipes) {
      golden.push_back(MakeImage(daemon.address(), recipe));
    }
  }
  const Findings findings = Measure(flags, recipes, golden, requests);
  std::cout << findings.differing << " of " << findings.images
            << " images differ, by at most " << findings.largest.max
            << " of 255; in the mean of an image by at most "
            << findings.largest.mean << "\n";
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace graft

int main(int argc, char** argv) {
  int requests = 40;
  if (argc < 3 || (argc > 3 && !absl::SimpleAtoi(argv[3], &requests))) {
    std::cerr << "usage: batching_difference MODEL_DIR ADAPTER_DIR [REQUESTS]"
              << std::endl;
    return EXIT_FAILURE;
  }
  return graft::Run(argv[1], argv[2], requests);
}

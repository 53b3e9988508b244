#include "tests/chaos/golden_images.h"

#include <algorithm>
#include <future>
#include <set>

#include "absl/strings/str_cat.h"
#include "client/graft_client.h"
#include "gtest/gtest.h"
#include "tests/chaos/generate_call.h"
#include "tests/integration/daemon_process.h"
#include "tests/testing/temp_dir.h"

namespace graft {
namespace {

// Of the styles of a recipe at most one has several.
size_t CountContents(const StyleShelf& shelf, const Recipe& recipe) {
  size_t contents = 1;
  for (const size_t style : recipe.styles) {
    contents = std::max(contents, shelf.styles()[style].contents.size());
  }
  return contents;
}

size_t ContentOf(const Style& style, size_t content) {
  return std::min(content, style.contents.size() - 1);
}

}  // namespace

std::vector<std::string> MakeImages(
    const std::vector<std::string>& flags,
    const std::vector<NamedContent>& adapters,
    const std::vector<v1::GenerateImageRequest>& requests) {
  const TempDir dir;
  std::vector<std::string> all_flags = flags;
  all_flags.push_back("--adapter_dir=" + dir.path());
  DaemonProcess daemon(all_flags);
  EXPECT_TRUE(daemon.WaitUntilServing()) << daemon.log();
  GraftClient client({.server = daemon.address()});
  for (const NamedContent& adapter : adapters) {
    dir.Write(adapter.name + ".safetensors", adapter.bytes);
    v1::LoadAdapterRequest request;
    request.set_path(adapter.name + ".safetensors");
    const auto response = client.LoadAdapter(request);
    EXPECT_TRUE(response.ok()) << response.status();
  }
  std::vector<std::string> images;
  const auto stub =
      v1::GenerationService::NewStub(OwnChannel(daemon.address()));
  for (const v1::GenerateImageRequest& request : requests) {
    grpc::ClientContext context;
    GenerateAnswer answer = CallGenerate(*stub, request, context, [] {});
    EXPECT_TRUE(answer.status.ok())
        << answer.status << " " << request.DebugString();
    images.push_back(std::move(answer.image));
  }
  EXPECT_EQ(daemon.Stop(), 0);
  return images;
}

GoldenImages::GoldenImages(const std::vector<std::string>& flags,
                           const StyleShelf& shelf,
                           const std::vector<Recipe>& recipes, size_t per_set) {
  // Two processes at a time.
  std::future<std::map<Key, std::string>> other;
  for (size_t first = 0; first < recipes.size(); first += per_set) {
    const size_t contents = CountContents(shelf, recipes[first]);
    for (size_t content = 0; content < contents; ++content) {
      ++processes_;
      auto made = std::async(std::launch::async, [&, first, content] {
        return MakeSet(flags, shelf, recipes, first, per_set, content);
      });
      if (other.valid()) images_.merge(other.get());
      other = std::move(made);
    }
  }
  if (other.valid()) images_.merge(other.get());
}

std::map<GoldenImages::Key, std::string> GoldenImages::MakeSet(
    const std::vector<std::string>& flags, const StyleShelf& shelf,
    const std::vector<Recipe>& recipes, size_t first, size_t per_set,
    size_t content) const {
  std::vector<NamedContent> adapters;
  std::vector<std::string> digests;
  for (const size_t number : recipes[first].styles) {
    const Style& style = shelf.styles()[number];
    const size_t chosen = ContentOf(style, content);
    adapters.push_back({style.name, style.contents[chosen]});
    digests.push_back(style.digests[chosen]);
  }
  std::vector<v1::GenerateImageRequest> requests;
  for (size_t i = first; i < first + per_set; ++i) {
    requests.push_back(recipes[i].request);
  }
  std::vector<std::string> images = MakeImages(flags, adapters, requests);
  std::map<Key, std::string> by_recipe;
  for (size_t i = 0; i < per_set; ++i) {
    by_recipe[{first + i, digests}] = std::move(images[i]);
  }
  return by_recipe;
}

const std::string* GoldenImages::Find(size_t recipe,
                                      const v1::Finished& finished) const {
  Key key{recipe, {}};
  for (const v1::AppliedAdapter& adapter : finished.adapters()) {
    key.second.push_back(adapter.sha256());
  }
  const auto found = images_.find(key);
  return found == images_.end() ? nullptr : &found->second;
}

std::string GoldenImages::Whose(const std::string& image) const {
  std::string owners;
  for (const auto& [key, golden] : images_) {
    if (golden == image) absl::StrAppend(&owners, " ", key.first);
  }
  return owners.empty() ? "nobody's" : absl::StrCat("recipe", owners, "'s");
}

size_t GoldenImages::distinct() const {
  std::set<std::string> distinct;
  for (const auto& [key, image] : images_) distinct.insert(image);
  return distinct.size();
}

}  // namespace graft

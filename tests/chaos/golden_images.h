#ifndef GRAFT_TESTS_CHAOS_GOLDEN_IMAGES_H_
#define GRAFT_TESTS_CHAOS_GOLDEN_IMAGES_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "graft/v1/generation.pb.h"
#include "tests/chaos/style_shelf.h"

namespace graft {

// An adapter's file under its name.
struct NamedContent {
  std::string name;
  std::string bytes;
};

// The images of `requests`, in their order, made by a fresh graftd with `flags`
// that has loaded `adapters` and serves nothing else.
std::vector<std::string> MakeImages(
    const std::vector<std::string>& flags,
    const std::vector<NamedContent>& adapters,
    const std::vector<v1::GenerateImageRequest>& requests);

// What every answer to a recipe must be, known beforehand. Immutable.
class GoldenImages {
 public:
  // A fresh process for every set of contents that the recipes may get.
  // REQUIRES: recipes of one set are neighbours, `per_set` of them.
  GoldenImages(const std::vector<std::string>& flags, const StyleShelf& shelf,
               const std::vector<Recipe>& recipes, size_t per_set);

  // The image of a recipe with the contents that the answer names; null if the
  // recipe cannot have got these.
  const std::string* Find(size_t recipe, const v1::Finished& finished) const;

  // The recipes whose image this is, for messages.
  std::string Whose(const std::string& image) const;

  size_t size() const { return images_.size(); }
  // How many images there are that differ.
  size_t distinct() const;
  int processes() const { return processes_; }

 private:
  // A recipe, and the digests of its adapters in its order.
  using Key = std::pair<size_t, std::vector<std::string>>;

  // The images of the set that begins with this recipe, with the `content`-th
  // content of each style that has so many.
  std::map<Key, std::string> MakeSet(const std::vector<std::string>& flags,
                                     const StyleShelf& shelf,
                                     const std::vector<Recipe>& recipes,
                                     size_t first, size_t per_set,
                                     size_t content) const;

  std::map<Key, std::string> images_;
  int processes_ = 0;
};

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_GOLDEN_IMAGES_H_

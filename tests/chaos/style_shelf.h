#ifndef GRAFT_TESTS_CHAOS_STYLE_SHELF_H_
#define GRAFT_TESTS_CHAOS_STYLE_SHELF_H_

#include <random>
#include <string>
#include <vector>

#include "graft/v1/adapter.pb.h"
#include "graft/v1/generation.pb.h"
#include "tests/chaos/chaos_model.h"
#include "tests/testing/temp_dir.h"

namespace graft {

// A name that requests may use, and the contents that it may stand for.
struct Style {
  std::string name;
  // Loaded by the first request that names it, else by LoadAdapter.
  bool autoloaded = false;
  // Each the bytes of a file, and their SHA-256; more than one where the
  // content is replaced now and then.
  std::vector<std::string> contents;
  std::vector<std::string> digests;
};

// An adapter directory with many styles. Thread-safe.
class StyleShelf {
 public:
  // One style of ten has two contents; the second half is autoloaded.
  StyleShelf(const ChaosModel& model, int styles);

  const std::string& path() const { return dir_.path(); }
  const std::vector<Style>& styles() const { return styles_; }

  // Loads a content of a style that is not autoloaded, in place of any other.
  v1::LoadAdapterRequest LoadRequest(size_t style, size_t content) const;

  // Puts another content into the file of an autoloaded style, at one go.
  void ReplaceFile(size_t style, size_t content) const;

 private:
  std::string FileOf(size_t style, size_t content) const;

  TempDir dir_;
  std::vector<Style> styles_;
};

// A request that can be answered in as many ways as its styles have contents.
struct Recipe {
  v1::GenerateImageRequest request;
  std::vector<size_t> styles;  // in the order of the request's adapters
};

// `sets` sets of 0 to 3 styles with weights, every style about equally often,
// and at most one of two contents in each; with `per_set` recipes for each set
// that differ in seed, size, steps and sampler. Those of a set are neighbours.
std::vector<Recipe> DrawRecipes(const StyleShelf& shelf, int sets, int per_set,
                                std::mt19937_64& random);

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_STYLE_SHELF_H_

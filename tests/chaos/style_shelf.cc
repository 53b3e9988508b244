#include "tests/chaos/style_shelf.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/common/sha256.h"

namespace graft {
namespace {

constexpr size_t kOneReplacedOf = 10;

// Deals the numbers below `count`, shuffled anew whenever all are dealt.
class Deck {
 public:
  Deck(size_t count, std::mt19937_64& random) : cards_(count), random_(random) {
    std::iota(cards_.begin(), cards_.end(), size_t{0});
  }

  size_t Deal() {
    if (dealt_ == 0) std::shuffle(cards_.begin(), cards_.end(), random_);
    const size_t card = cards_[dealt_];
    dealt_ = (dealt_ + 1) % cards_.size();
    return card;
  }

 private:
  std::vector<size_t> cards_;
  std::mt19937_64& random_;
  size_t dealt_ = 0;
};

std::vector<size_t> DrawSet(const StyleShelf& shelf, size_t size, Deck& deck) {
  std::vector<size_t> set;
  bool has_replaced = false;
  while (set.size() < size) {
    const size_t style = deck.Deal();
    const bool replaced = shelf.styles()[style].contents.size() > 1;
    if (std::count(set.begin(), set.end(), style) > 0 ||
        (replaced && has_replaced)) {
      continue;
    }
    has_replaced = has_replaced || replaced;
    set.push_back(style);
  }
  return set;
}

// Everything but the adapters.
v1::GenerateImageRequest DrawRequest(std::mt19937_64& random) {
  static constexpr const char* kSamplers[] = {"ddim", "euler", "euler_a",
                                              "dpmpp_2m"};
  static constexpr const char* kPrompts[] = {"a star", "two boats at night",
                                             ""};
  v1::GenerateImageRequest request;
  request.set_prompt(kPrompts[random() % std::size(kPrompts)]);
  request.set_width(16 + 8 * static_cast<uint32_t>(random() % 2));
  request.set_height(16);
  request.set_steps(1 + static_cast<uint32_t>(random() % 4));
  request.set_guidance_scale(random() % 4 == 0 ? 1 : 5);
  request.set_sampler(kSamplers[random() % std::size(kSamplers)]);
  request.set_seed(random());
  return request;
}

}  // namespace

StyleShelf::StyleShelf(const ChaosModel& model, int styles) {
  int content = 0;
  for (size_t i = 0; i < static_cast<size_t>(styles); ++i) {
    Style& style = styles_.emplace_back();
    style.name = absl::StrCat("style", i);
    style.autoloaded = i >= static_cast<size_t>(styles) / 2;
    const size_t contents = i % kOneReplacedOf == 0 ? 2 : 1;
    for (size_t j = 0; j < contents; ++j) {
      std::string bytes = model.AdapterFile(content++);
      style.digests.push_back(Sha256Hex(bytes.data(), bytes.size()));
      style.contents.push_back(std::move(bytes));
      if (!style.autoloaded) dir_.Write(FileOf(i, j), style.contents.back());
    }
    if (style.autoloaded) ReplaceFile(i, 0);
  }
}

v1::LoadAdapterRequest StyleShelf::LoadRequest(size_t style,
                                               size_t content) const {
  v1::LoadAdapterRequest request;
  request.set_name(styles_[style].name);
  request.set_path(FileOf(style, content));
  request.set_allow_replace(true);
  return request;
}

void StyleShelf::ReplaceFile(size_t style, size_t content) const {
  static std::atomic<int> number{0};
  const std::string written = dir_.Write(absl::StrCat("new", number++),
                                         styles_[style].contents[content]);
  std::filesystem::rename(written, dir_.File(FileOf(style, content)));
}

std::string StyleShelf::FileOf(size_t style, size_t content) const {
  const std::string& name = styles_[style].name;
  return styles_[style].autoloaded
             ? name + ".safetensors"
             : absl::StrCat("asked/", name, "-", content, ".safetensors");
}

std::vector<Recipe> DrawRecipes(const StyleShelf& shelf, int sets, int per_set,
                                std::mt19937_64& random) {
  constexpr int kMaxAdapters = 3;
  Deck deck(shelf.styles().size(), random);
  std::uniform_real_distribution<float> weight(-1.5F, 1.5F);
  std::vector<Recipe> recipes;
  for (int i = 0; i < sets; ++i) {
    const auto size = static_cast<size_t>(i % (kMaxAdapters + 1));
    Recipe recipe{.request = {}, .styles = DrawSet(shelf, size, deck)};
    v1::GenerateImageRequest adapters;
    for (const size_t style : recipe.styles) {
      v1::AdapterRef& adapter = *adapters.add_adapters();
      adapter.set_name(shelf.styles()[style].name);
      adapter.set_weight(weight(random));
      if (random() % 2 == 0) adapter.set_text_encoder_weight(weight(random));
    }
    for (int j = 0; j < per_set; ++j) {
      recipe.request = DrawRequest(random);
      *recipe.request.mutable_adapters() = adapters.adapters();
      recipes.push_back(recipe);
    }
  }
  return recipes;
}

}  // namespace graft

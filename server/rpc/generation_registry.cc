#include "server/rpc/generation_registry.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/common/error.h"
#include "server/common/status_macros.h"

namespace graft {
namespace {

// What an entry takes beside its images, roughly: many small images would else
// count for nothing.
constexpr int64_t kEntryBytes = 4096;

absl::Status IdOfAnother(absl::string_view request_id) {
  return InvalidField(
      "request_id",
      absl::StrCat("\"", request_id,
                   "\" is the id of another request; choose a new one for "
                   "each, a UUID for choice"));
}

std::string RecipeOf(v1::GenerateImageRequest request) {
  request.clear_request_id();
  return request.SerializeAsString();
}

}  // namespace

absl::StatusOr<GenerationRegistry::Admission> GenerationRegistry::Admit(
    const std::string& tenant, const std::string& request_id,
    const v1::GenerateImageRequest& request, uint64_t first_seed) {
  const Key key(tenant, request_id);
  std::string recipe = RecipeOf(request);
  absl::MutexLock lock(&mu_);
  const auto known = entries_.find(key);
  if (known != entries_.end()) {
    const Entry& entry = known->second;
    if (!entry.own_id || entry.recipe != recipe) {
      if (entry.generation->wanted()) return IdOfAnother(request_id);
    } else {
      absl::StatusOr<SharedGeneration::Place> place =
          entry.generation->TakePlace();
      if (place.ok()) {
        return Admission{entry.generation, *std::move(place),
                         /*is_new=*/false};
      }
      if (entry.generation->wanted()) return place.status();
    }
  }
  // An id that the server made is unknown to anybody who could send it again.
  const bool keeps = !request.request_id().empty();
  const auto generation = std::make_shared<SharedGeneration>(
      first_seed, keeps,
      [this, key, keeps](const SharedGeneration& done,
                         const absl::Status& status,
                         const GenerationSummary& summary) {
        OnDone(key, done, /*keep=*/keeps && status.ok());
        on_finished_(status, summary);
      });
  GRAFT_ASSIGN_OR_RETURN(SharedGeneration::Place place,
                         generation->TakePlace());
  entries_[key] = {generation, std::move(recipe), /*own_id=*/keeps,
                   /*finished=*/false};
  return Admission{generation, std::move(place), /*is_new=*/true};
}

bool GenerationRegistry::Cancel(const std::string& tenant,
                                const std::string& request_id) {
  absl::MutexLock lock(&mu_);
  const auto known = entries_.find(Key(tenant, request_id));
  if (known == entries_.end() || known->second.finished) return false;
  known->second.generation->cancel_flag()->store(true,
                                                 std::memory_order_relaxed);
  return true;
}

void GenerationRegistry::OnDone(const Key& key,
                                const SharedGeneration& generation, bool keep) {
  absl::MutexLock lock(&mu_);
  const auto known = entries_.find(key);
  // A cancelled request gives its id to the next one before it is over.
  if (known == entries_.end() ||
      known->second.generation.get() != &generation) {
    return;
  }
  if (!keep) {
    entries_.erase(known);
    return;
  }
  known->second.finished = true;
  finished_.push_back(key);
  finished_bytes_ += Cost(known->second);
  while (finished_bytes_ > max_finished_bytes_) {
    const auto oldest = entries_.find(finished_.front());
    finished_bytes_ -= Cost(oldest->second);
    entries_.erase(oldest);
    finished_.pop_front();
  }
}

int64_t GenerationRegistry::Cost(const Entry& entry) {
  return kEntryBytes + static_cast<int64_t>(entry.recipe.size()) +
         entry.generation->kept_bytes();
}

}  // namespace graft

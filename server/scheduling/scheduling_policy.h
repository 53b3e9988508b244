#ifndef GRAFT_SERVER_SCHEDULING_SCHEDULING_POLICY_H_
#define GRAFT_SERVER_SCHEDULING_SCHEDULING_POLICY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "server/scheduling/fair_share.h"
#include "server/scheduling/generation_task.h"

// Who runs next: decided anew before every step of the device, by functions of
// the state of the queue alone. Neither clock, thread nor engine is here, so
// that the scheduler, its tests and the simulator decide alike.
namespace graft {

// By how many a request may be passed over that join the running batch, though
// they came later.
inline constexpr int kMaxPassedOver = 8;

// How often a request yields to more urgent ones before it gets as many steps
// that nobody may take from it: a job is slowed down, never starved.
inline constexpr int kMaxOvertaken = 8;
inline constexpr int kStepsAfterYielding = 8;

// A job is long beside another if it is at least this many times its size. Jobs
// that are not are never sliced: it would only delay the first and not speed
// up the second.
inline constexpr int64_t kLongJob = 4;

// One unfinished image of a request, as the policy sees it.
struct ImageView {
  int index = 0;
  // What its next step needs: images with equal keys can share a batch.
  std::string batch_key;
  int64_t work_left = 0;  // steps x pixels
  bool begun = false;
};

// One unfinished request, as the policy sees it.
struct RequestView {
  int64_t id = 0;  // rises with each arrival
  std::string tenant;
  Priority priority = Priority::kInteractive;
  std::vector<ImageView> images;  // those that are not finished, in order
  bool started = false;           // the device has begun with it
  int64_t start_order = 0;        // rises with each that it begins with
  int passed_over = 0;            // by how many that joined a batch
  int overtaken = 0;              // by how many more urgent ones, of late

  int64_t WorkLeft() const;
};

struct SchedulingState {
  std::vector<RequestView> requests;  // rising ids
  FairShare shares;                   // all tenants of `requests` take part
  int max_batch_size = 1;
};

struct BatchImage {
  int64_t request_id = 0;
  int image_index = 0;
};

// Why a batch has no more images.
enum class BatchStop : uint8_t {
  kFull,          // it is as large as it may be
  kQueueEmpty,    // there are no others
  kIncompatible,  // all others need other adapters or another size
  kFairness,      // one may not join: it would keep others waiting for too long
};

// What is to make the next step, and what follows from the choice.
struct BatchChoice {
  std::vector<BatchImage> images;  // at least one, all of one batch key
  BatchStop stop = BatchStop::kFull;
  std::vector<int64_t> starting;  // requests that begin with it
  // Once for each of `starting` that passes over or overtakes it.
  std::vector<int64_t> passed_over;
  std::vector<int64_t> overtaken;
  FairShare shares;  // as they are afterwards
};

// The largest batch size that is run, up to `size`: 1, 2, 3, 4, 6, 8, 12, 16,
// 24... Few sizes, so that what is prepared for a batch size (a captured graph,
// tuned kernels) is prepared once; and no padding, as a padded row costs as
// much as a real one. Up to 4 every size is there, since leaving out one image
// of three would slice equal jobs.
int BatchBucket(int size);

// Whether `urgent` may run in place of `other`, even in the middle of its
// steps: interactive before batch, and within a class the short before the
// long.
bool MayOvertake(const RequestView& urgent, const RequestView& other);

// The next batch. Its first member is
//
//   1. the request that was begun first, else the one whose tenant's turn it is
//      (within a tenant the oldest),
//   2. unless another may overtake it, and it was not overtaken too often.
//
// The remaining places go to images with the same batch key: interactive ones
// first, and in each class those that are begun, then further images of
// requests that are begun, then requests that join, as long as they pass nobody
// over too often. A pure function. REQUIRES: there are requests, each with an
// image.
BatchChoice ChooseBatch(const SchedulingState& state);

// How long the way of a request is.
struct QueuePlace {
  int position = 0;        // requests before it
  int64_t work_ahead = 0;  // of theirs, at most
};

// The place of a request that waits or, with an id larger than all, would have
// to: behind all before it that it may not overtake, and those after it that
// may overtake it; of other tenants' waiting requests at most as much as of its
// own.
QueuePlace PlaceOf(const SchedulingState& state, const RequestView& waiting);

// Whether `newcomer` would begin at once if the next batch were chosen now, the
// work ahead of it notwithstanding: as it needs what the batch needs, and has a
// place in it without passing anybody over too often. REQUIRES: its id is
// larger than all.
bool BeginsNext(const SchedulingState& state, const RequestView& newcomer);

}  // namespace graft

#endif  // GRAFT_SERVER_SCHEDULING_SCHEDULING_POLICY_H_

// Makes absl::Mutex visible to ThreadSanitizer.
//
// Distributions build Abseil without the sanitizer, so it does not see that a
// mutex orders what it guards, and reports every guarded access as a race.
// These wrappers, linked into the test programs of the tsan preset, forward to
// the library and tell the sanitizer about acquire and release.

#include <dlfcn.h>

#include <string>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace {

// Itanium mangling of absl::<inline namespace>::Mutex::<member>.
#define GRAFT_STRINGIZE_(x) #x
#define GRAFT_STRINGIZE(x) GRAFT_STRINGIZE_(x)
#if ABSL_OPTION_USE_INLINE_NAMESPACE == 1
constexpr char kInlineNamespace[] =
    GRAFT_STRINGIZE(ABSL_OPTION_INLINE_NAMESPACE_NAME);
#else
constexpr char kInlineNamespace[] = "";
#endif

std::string MangledMember(const char* suffix) {
  std::string name = "_ZN4absl";
  if (kInlineNamespace[0] != '\0') {
    name += std::to_string(sizeof(kInlineNamespace) - 1) + kInlineNamespace;
  }
  return name + "5Mutex" + suffix;
}

template <typename Function>
Function Real(const char* suffix) {
  void* const symbol = dlsym(RTLD_NEXT, MangledMember(suffix).c_str());
  if (symbol == nullptr) __builtin_trap();
  return reinterpret_cast<Function>(symbol);
}

// What the library does with its own memory is none of the sanitizer's
// business.
class IgnoreReads {
 public:
  IgnoreReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoreReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

using Member = void (*)(absl::Mutex*);

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const Member real = Real<Member>("4LockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const Member real = Real<Member>("6UnlockEv");
  __tsan_release(this);
  const IgnoreReads ignore;
  real(this);
}

void Mutex::ReaderLock() {
  static const Member real = Real<Member>("10ReaderLockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static const Member real = Real<Member>("12ReaderUnlockEv");
  __tsan_release(this);
  const IgnoreReads ignore;
  real(this);
}

void Mutex::Await(const Condition& condition) {
  using Await = void (*)(Mutex*, const Condition&);
  static const Await real = Real<Await>("5AwaitERKNS0_9ConditionE");
  __tsan_release(this);
  {
    const IgnoreReads ignore;
    real(this, condition);
  }
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  using Await = bool (*)(Mutex*, const Condition&, Duration);
  static const Await real =
      Real<Await>("16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  __tsan_release(this);
  bool result;
  {
    const IgnoreReads ignore;
    result = real(this, condition, timeout);
  }
  __tsan_acquire(this);
  return result;
}

ABSL_NAMESPACE_END
}  // namespace absl

#ifndef GRAFT_TESTS_ENGINE_PTX_MEMORY_H_
#define GRAFT_TESTS_ENGINE_PTX_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

// The memory that interpreted kernels see, every access checked. Functions that
// check return why an access is wrong, or null.
namespace graft::ptx {

// The host's memory as the device's global memory: addresses are the host's.
class GlobalMemory {
 public:
  struct Buffer {
    uint64_t address = 0;
    size_t size = 0;
    bool writable = false;
  };

  explicit GlobalMemory(std::vector<Buffer> buffers);

  // Whether all `bytes` from `address`, a multiple of them, lie in one buffer.
  const char* Check(uint64_t address, uint32_t bytes, bool writes);

 private:
  std::vector<Buffer> buffers_;  // by address
  size_t last_ = 0;              // the one that was last used
};

// A lane at a time: `epoch` is another one whenever all lanes of its warp have
// met so that their memory is ordered.
struct Accessor {
  uint16_t warp = 0;
  uint8_t lane = 0;
  uint32_t epoch = 1;
};

// A block's shared memory. What nobody has written is garbage that is another
// with every seed. It is wrong, within an epoch, to read what another lane
// wrote and to write what another lane read or wrote, unless both did by atomic
// operations; and at any time to touch what another warp has touched, as there
// is nothing that orders warps, or what a copy is on its way to.
class SharedMemory {
 public:
  // Where it begins in its address space: not at 0.
  static constexpr uint32_t kBase = 1024;

  SharedMemory(size_t size, uint32_t seed);

  // Addresses are multiples of `bytes`.
  const char* Read(const Accessor& who, uint32_t address, uint32_t bytes,
                   void* to);
  const char* Write(const Accessor& who, uint32_t address, uint32_t bytes,
                    const void* from);
  // For an atomic operation; `word` is what it may change.
  const char* Atomic(const Accessor& who, uint32_t address, uint32_t*& word);
  // Between the two there is garbage. Finish: `from` is what StartCopy let
  // pass.
  const char* StartCopy(const Accessor& who, uint32_t address, uint32_t bytes);
  void FinishCopy(const Accessor& who, uint32_t address, uint32_t bytes,
                  const void* from);

 private:
  // What is known of one byte.
  struct Byte {
    uint32_t written = 0;  // the epoch; 0: never
    uint32_t read = 0;
    uint16_t warp = 0;   // that has touched it, + 1
    uint8_t writer = 0;  // in that epoch: a lane, or one of those below
    uint8_t reader = 0;
  };
  static constexpr uint8_t kSeveral = 0xfe;
  static constexpr uint8_t kCopy = 0xff;

  const char* Claim(const Accessor& who, uint32_t address, uint32_t bytes);
  static bool WrittenByOther(const Byte& byte, const Accessor& who);
  const char* CheckWrite(const Accessor& who, uint32_t address, uint32_t bytes,
                         bool atomic);
  void FillWithGarbage(uint32_t address, size_t bytes);
  uint8_t* At(uint32_t address) { return memory_.data() + (address - kBase); }

  std::vector<uint8_t> memory_;
  std::vector<Byte> bytes_;
  uint32_t garbage_;
};

}  // namespace graft::ptx

#endif  // GRAFT_TESTS_ENGINE_PTX_MEMORY_H_

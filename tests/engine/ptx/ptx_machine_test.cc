#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/engine/weights/kernels/weight_bits.h"
#include "tests/engine/ptx/half.h"
#include "tests/engine/ptx/machine.h"
#include "tests/engine/ptx/memory.h"
#include "tests/engine/ptx/module.h"

namespace graft::ptx {
namespace {

using ::testing::HasSubstr;

// A kernel with `in` and `out`, 64 words each, of which rd4 and rd5 point to
// the thread's own, and r4 to its own in shared memory; r1 is its number.
class PtxMachineTest : public ::testing::Test {
 protected:
  static std::string Text(absl::string_view body) {
    return absl::StrCat(R"(
        .version 8.0
        .target sm_80
        .address_size 64
        .extern .shared .align 16 .b8 memory[];
        .func (.param .b32 sum) Add(.param .b32 a, .param .b32 b)
        {
          .reg .b32 %r<3>;
          ld.param.u32 %r0, [a];
          ld.param.u32 %r1, [b];
          add.s32 %r2, %r0, %r1;
          st.param.b32 [sum], %r2;
          ret;
        }
        .visible .entry kernel(.param .u64 in, .param .u64 out)
        .maxntid 64, 1, 1
        {
          .reg .pred %p<9>;
          .reg .b32 %r<9>;
          .reg .b64 %rd<9>;
          ld.param.u64 %rd1, [in];
          ld.param.u64 %rd2, [out];
          mov.u32 %r1, %tid.x;
          mul.wide.u32 %rd3, %r1, 4;
          add.s64 %rd4, %rd1, %rd3;
          add.s64 %rd5, %rd2, %rd3;
          shl.b32 %r2, %r1, 2;
          mov.u32 %r3, memory;
          add.s32 %r4, %r3, %r2;
          setp.eq.s32 %p1, %r1, 5;
        )",
                        body, "ret; }");
  }

  absl::Status Run(absl::string_view body, uint32_t threads = 32) {
    absl::StatusOr<Module> module = ParseModule(Text(body));
    if (!module.ok()) return module.status();
    Machine machine(*std::move(module), /*seed=*/1);
    std::iota(in_.begin(), in_.end(), 100);
    uint64_t in = reinterpret_cast<uintptr_t>(in_.data());
    uint64_t out = reinterpret_cast<uintptr_t>(out_.data());
    GlobalMemory memory(
        {{in, in_.size() * 4, false}, {out, out_.size() * 4, true}});
    const void* const arguments[] = {&in, &out};
    return machine.Run(machine.functions().at("kernel"), {1, threads, 1024},
                       arguments, memory);
  }

  void ExpectFailure(absl::string_view body, const char* message,
                     uint32_t threads = 32) {
    const absl::Status status = Run(body, threads);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  std::vector<uint32_t> in_ = std::vector<uint32_t>(64);
  std::vector<uint32_t> out_ = std::vector<uint32_t>(64);
};

TEST_F(PtxMachineTest, RunsEveryThread) {
  ASSERT_TRUE(Run("ld.global.u32 %r5, [%rd4];"
                  "@!%p1 add.s32 %r5, %r5, 1;"
                  "st.global.u32 [%rd5], %r5;",
                  64)
                  .ok());
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(out_[i], i == 5 ? 105 : 101 + i);
}

TEST_F(PtxMachineTest, CallsFunctions) {
  ASSERT_TRUE(Run("{ .param .b32 a; .param .b32 b; .param .b32 c;"
                  "st.param.b32 [a], %r1; st.param.b32 [b], 7;"
                  "call.uni (c), Add, (a, b);"
                  "ld.param.u32 %r5, [c]; }"
                  "st.global.u32 [%rd5], %r5;")
                  .ok());
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out_[i], i + 7);
}

TEST_F(PtxMachineTest, ShufflesAndVotes) {
  ASSERT_TRUE(Run("shfl.sync.up.b32 %r5|%p2, %r1, 4, 0, -1;"
                  "@!%p2 mov.u32 %r5, 1000;"
                  "shfl.sync.bfly.b32 %r6|%p2, %r5, 1, 31, -1;"
                  "vote.sync.ballot.b32 %r7, %p1, -1;"
                  "add.s32 %r6, %r6, %r7;"
                  "st.global.u32 [%rd5], %r6;")
                  .ok());
  for (uint32_t i = 0; i < 32; ++i) {
    EXPECT_EQ(out_[i], 32 + ((i ^ 1) < 4 ? 1000 : (i ^ 1) - 4));
  }
}

TEST_F(PtxMachineTest, LanesMeetBeforeTheyReadEachOthersWords) {
  const absl::string_view write = "st.shared.u32 [%r4], %r1;";
  const absl::string_view read =
      "xor.b32 %r5, %r4, 4; ld.shared.u32 %r6, [%r5];"
      "st.global.u32 [%rd5], %r6;";
  ASSERT_TRUE(Run(absl::StrCat(write, "bar.warp.sync -1;", read)).ok());
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out_[i], i ^ 1);
  ExpectFailure(absl::StrCat(write, read), "race");
  ExpectFailure(absl::StrCat(write, "vote.sync.ballot.b32 %r7, %p1, -1;", read),
                "race");
  ExpectFailure(absl::StrCat(read, "vote.sync.ballot.b32 %r7, %p1, -1;", write),
                "race: written after another lane's read");
  ExpectFailure("st.shared.u32 [%r3], %r1;",
                "race: written after another lane's write");
  EXPECT_TRUE(Run("atom.shared.add.u32 %r5, [%r3], 1;").ok());
  ExpectFailure("atom.shared.add.u32 %r5, [%r3], 1; ld.shared.u32 %r5, [%r3];",
                "race");
}

TEST_F(PtxMachineTest, WarpsDoNotMeet) {
  ExpectFailure("ld.shared.u32 %r5, [%r3];", "another warp's", 64);
}

TEST_F(PtxMachineTest, AllLanesComeToOneMeeting) {
  ExpectFailure("@%p1 ret; bar.warp.sync -1;", "has exited");
  ExpectFailure("@%p1 bar.warp.sync -1;", "has exited");
  ExpectFailure(
      "@%p1 bra OTHER; bar.warp.sync -1; ret;"
      "OTHER: bar.warp.sync -1;",
      "in different places");
  ExpectFailure("bar.warp.sync 1;", "not for all lanes");
}

TEST_F(PtxMachineTest, AccessesStayInTheLaunchsMemory) {
  ExpectFailure("ld.global.u32 %r5, [%rd4+132];", "in none");
  ExpectFailure("ld.global.u32 %r5, [%rd1+-4];", "in none");
  ExpectFailure("ld.global.v4.u32 {%r5, %r6, %r7, %r8}, [%rd4];", "misaligned");
  ExpectFailure("st.global.u32 [%rd4], %r1;", "read only");
  ExpectFailure("st.shared.u32 [%r4+1000], %r1;", "beyond shared memory");
  ExpectFailure("ld.shared.u32 %r5, [%r2];", "beyond shared memory");
}

TEST_F(PtxMachineTest, CopiesArriveWhenTheyAreWaitedFor) {
  const absl::string_view copy =
      "setp.ge.u32 %p2, %r1, 8;"
      "mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd1, %rd6;"
      "shl.b32 %r5, %r1, 4; add.s32 %r5, %r5, %r3;"
      "@!%p2 cp.async.cg.shared.global [%r5], [%rd6], 16;";
  const absl::string_view read =
      "ld.shared.u32 %r6, [%r4]; st.global.u32 [%rd5], %r6;";
  ASSERT_TRUE(
      Run(absl::StrCat(copy, "cp.async.wait_all; bar.warp.sync -1;", read))
          .ok());
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out_[i], 100 + i);
  ExpectFailure(absl::StrCat(copy, "bar.warp.sync -1;", read), "on its way");
  ExpectFailure(absl::StrCat(copy, "cp.async.wait_all;", read), "race");
  ExpectFailure(copy, "copies on their way");
}

TEST_F(PtxMachineTest, EndlessLoopsEnd) {
  ExpectFailure("AGAIN: bra AGAIN;", "does not end");
}

TEST_F(PtxMachineTest, UnknownInstructionsAreNamed) {
  ExpectFailure("sin.approx.f32 %r5, %r6;",
                "unknown instruction sin.approx.f32");
  ExpectFailure("add.s32 %r5, %r6;", "unknown instruction add.s32");
  ExpectFailure("add.s32 %r5, %r6, %r9;", "unknown name %r9");
}

// All numbers of 16 bits, and what lies between them, as the kernels' own code
// converts them.
TEST(PtxHalfTest, ConvertsAsTheKernels) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = FloatFromFloat16(half);
    ASSERT_EQ(value, Float16Weight::Widen(half));
    const float next = FloatFromFloat16(static_cast<uint16_t>(bits + 1));
    const float middle = value + (next - value) / 2;
    for (const float x : {value, middle, std::nextafter(middle, 0.0F),
                          std::nextafter(middle, 1e6F)}) {
      ASSERT_EQ(Float16FromFloat(x), Float16Weight::Round(x)) << x;
      ASSERT_EQ(Float16FromFloat(-x), Float16Weight::Round(-x)) << x;
    }
  }
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const float value = FloatFromBFloat16(static_cast<uint16_t>(bits));
    const float middle = FloatFromBits(bits << 16 | 0x8000u);
    for (const float x : {value, middle, -middle}) {
      ASSERT_EQ(BFloat16FromFloat(x), BFloat16Weight::Round(x)) << x;
    }
  }
}

}  // namespace
}  // namespace graft::ptx

// Pins, unloads that refuse or force, and where adapters are, through the whole
// stack.

#include <grpcpp/client_context.h>

#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client_status.h"
#include "client/graft_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/in_process_daemon.h"
#include "tests/testing/adapter_file_builder.h"

namespace graft {
namespace {

using Call = FakeEngine::Call;
using testing::AllOf;
using testing::HasSubstr;

class AdapterControlTest : public testing::Test {
 protected:
  explicit AdapterControlTest(
      const std::function<void(DaemonOptions&)>& change = nullptr)
      : daemon_(change), client_({.server = daemon_.address()}) {}

  absl::StatusOr<v1::Adapter> Load(const std::string& name, bool pinned = false,
                                   int variant = 0) {
    daemon_.adapter_dir().Write(name + ".safetensors", TinyLoraFile(variant));
    v1::LoadAdapterRequest request;
    request.set_path(name + ".safetensors");
    request.set_pinned(pinned);
    const auto response = client_.LoadAdapter(request);
    if (!response.ok()) return response.status();
    return response->adapter();
  }

  absl::StatusOr<v1::Adapter> Update(const std::string& name, bool pinned,
                                     const std::vector<std::string>& mask) {
    v1::UpdateAdapterRequest request;
    request.mutable_adapter()->set_name(name);
    request.mutable_adapter()->set_pinned(pinned);
    for (const std::string& path : mask) {
      request.mutable_update_mask()->add_paths(path);
    }
    return client_.UpdateAdapter(request);
  }

  v1::Adapter Get(const std::string& name) {
    const auto adapters = client_.ListAdapters();
    EXPECT_TRUE(adapters.ok());
    for (const v1::Adapter& adapter : *adapters) {
      if (adapter.name() == name) return adapter;
    }
    return {};
  }

  absl::Status Unload(const std::string& name, bool force = false,
                      bool only_if_unused = false) {
    v1::UnloadAdapterRequest request;
    request.set_name(name);
    request.set_force(force);
    request.set_only_if_unused(only_if_unused);
    return client_.UnloadAdapter(request).status();
  }

  // One image with these adapters, 4 steps.
  absl::StatusOr<GraftClient::Generated> Generate(
      const std::vector<std::string>& adapters, uint64_t seed) {
    v1::GenerateImageRequest request;
    request.set_steps(4);
    request.set_seed(seed);
    for (const std::string& name : adapters) {
      request.add_adapters()->set_name(name);
    }
    return client_.Generate(request, [](const v1::GenerateImageResponse&) {});
  }

  // Waits until so many requests use the adapter.
  void AwaitUsers(const std::string& name, int users) {
    while (Get(name).in_flight() != users) continue;
  }

  InProcessDaemon daemon_;
  GraftClient client_;
};

TEST_F(AdapterControlTest, APinnedAdapterCannotBeUnloadedUntilItIsUnpinned) {
  ASSERT_TRUE(Load("ink").ok());
  EXPECT_FALSE(Get("ink").pinned());
  const auto pinned = Update("ink", true, {"pinned"});
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_TRUE(pinned->pinned());
  EXPECT_EQ(pinned->name(), "ink");
  EXPECT_TRUE(Get("ink").pinned());
  for (const bool force : {false, true}) {
    const absl::Status refused = Unload("ink", force);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ErrorReasonOf(refused), "ADAPTER_PINNED");
  }
  ASSERT_TRUE(Update("ink", false, {"pinned"}).ok());
  EXPECT_TRUE(Unload("ink").ok());
}

TEST_F(AdapterControlTest, OnlyThePinMayBeUpdated) {
  ASSERT_TRUE(Load("ink").ok());
  const std::vector<std::vector<std::string>> kMasks = {
      {}, {"name"}, {"*"}, {"pinned", "sha256"}, {"pinned.x"}, {"Pinned"}};
  for (const std::vector<std::string>& mask : kMasks) {
    const absl::Status refused = Update("ink", true, mask).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_EQ(ErrorReasonOf(refused), "INVALID_FIELD");
    EXPECT_THAT(std::string(refused.message()), HasSubstr("update_mask"));
  }
  EXPECT_FALSE(Get("ink").pinned());
}

TEST_F(AdapterControlTest, UpdateOfWhatIsNotLoadedIsNotFound) {
  EXPECT_EQ(ErrorReasonOf(Update("ink", true, {"pinned"}).status()),
            "ADAPTER_NOT_FOUND");
}

TEST_F(AdapterControlTest, LoadCanPinAtOnceAndWhatIsLoadedAlready) {
  const auto fresh = Load("ink", /*pinned=*/true);
  ASSERT_TRUE(fresh.ok());
  EXPECT_TRUE(fresh->pinned());
  EXPECT_EQ(ErrorReasonOf(Unload("ink")), "ADAPTER_PINNED");

  ASSERT_TRUE(Load("night", /*pinned=*/false, 1).ok());
  EXPECT_FALSE(Get("night").pinned());
  const auto again = Load("night", /*pinned=*/true, 1);
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(again->pinned());
  // A load that does not ask for it takes no pin away.
  ASSERT_TRUE(Load("night", /*pinned=*/false, 1).ok());
  EXPECT_TRUE(Get("night").pinned());
}

// Whose device has room for one adapter.
class RoomForOneTest : public AdapterControlTest {
 protected:
  RoomForOneTest()
      : AdapterControlTest([](DaemonOptions& options) {
          InProcessDaemon unlimited;
          unlimited.adapter_dir().Write("ink.safetensors", TinyLoraFile());
          GraftClient client({.server = unlimited.address()});
          v1::LoadAdapterRequest load;
          load.set_path("ink.safetensors");
          EXPECT_TRUE(client.LoadAdapter(load).ok());
          options.max_adapter_device_bytes =
              unlimited.engine().memory().adapter_bytes;
        }) {}

  // Merges the adapter, which then has the room.
  void DrawWith(const std::string& name) {
    v1::GenerateImageRequest request;
    request.set_steps(1);
    request.add_adapters()->set_name(name);
    EXPECT_TRUE(
        client_.Generate(request, [](const v1::GenerateImageResponse&) {})
            .ok());
  }
};

TEST_F(RoomForOneTest, WhatWasMergedLastGivesWayToAPin) {
  ASSERT_TRUE(Load("ink").ok());
  ASSERT_TRUE(Load("night", /*pinned=*/false, 1).ok());
  DrawWith("ink");
  const auto pinned = Update("night", true, {"pinned"});
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ(pinned->residency(), v1::Adapter::RESIDENCY_DEVICE);
  // Another pin does not.
  EXPECT_EQ(ErrorReasonOf(Update("ink", true, {"pinned"}).status()),
            "ADAPTER_CACHE_FULL");
  EXPECT_FALSE(Get("ink").pinned());
}

TEST_F(RoomForOneTest, WhatIsLoadedPinnedIsOnTheDevice) {
  ASSERT_TRUE(Load("ink").ok());
  ASSERT_TRUE(Load("night", /*pinned=*/false, 1).ok());
  DrawWith("ink");
  const auto again = Load("night", /*pinned=*/true, 1);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->residency(), v1::Adapter::RESIDENCY_DEVICE);
  // Its pin goes over to what replaces it, and keeps that out until then.
  daemon_.adapter_dir().Write("night.safetensors", TinyLoraFile(2));
  v1::LoadAdapterRequest request;
  request.set_path("night.safetensors");
  request.set_allow_replace(true);
  const auto replaced = client_.LoadAdapter(request);
  ASSERT_TRUE(replaced.ok()) << replaced.status();
  EXPECT_TRUE(replaced->adapter().pinned());
  EXPECT_EQ(replaced->adapter().residency(), v1::Adapter::RESIDENCY_DEVICE);
  // Where there is no room it is loaded all the same.
  const auto full = Load("pastel", /*pinned=*/true, 3);
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_TRUE(full->pinned());
  EXPECT_EQ(full->residency(), v1::Adapter::RESIDENCY_HOST);
}

TEST_F(AdapterControlTest, UnloadCannotBothRefuseAndForce) {
  ASSERT_TRUE(Load("ink").ok());
  EXPECT_EQ(ErrorReasonOf(Unload("ink", /*force=*/true,
                                 /*only_if_unused=*/true)),
            "INVALID_FIELD");
  EXPECT_EQ(Get("ink").state(), v1::Adapter::STATE_ACTIVE);
}

TEST_F(AdapterControlTest, ForceWithoutUsersIsAnUnload) {
  ASSERT_TRUE(Load("ink").ok());
  EXPECT_TRUE(Unload("ink", /*force=*/true).ok());
  EXPECT_EQ(daemon_.engine().live_prepared(), 0);
}

// Those who use it end, running and waiting; the others do not notice.
TEST_F(AdapterControlTest, ForcedUnloadEndsItsUsersAndNobodyElse) {
  ASSERT_TRUE(Load("ink", false, 0).ok());
  ASSERT_TRUE(Load("night", false, 1).ok());
  const auto undisturbed = Generate({"night"}, 3);
  ASSERT_TRUE(undisturbed.ok());
  daemon_.engine().Block(Call::kStep);
  std::vector<std::thread> clients;
  absl::StatusOr<GraftClient::Generated> running;
  absl::StatusOr<GraftClient::Generated> waiting;
  absl::StatusOr<GraftClient::Generated> other;
  clients.emplace_back([&] { running = Generate({"ink"}, 1); });
  ASSERT_TRUE(daemon_.engine().WaitUntilBlocked(Call::kStep));
  clients.emplace_back([&] { waiting = Generate({"night", "ink"}, 2); });
  clients.emplace_back([&] { other = Generate({"night"}, 3); });
  AwaitUsers("ink", 2);
  AwaitUsers("night", 2);

  absl::Status unloaded;
  std::thread unloader([&] { unloaded = Unload("ink", /*force=*/true); });
  while (Get("ink").state() != v1::Adapter::STATE_UNLOADING) continue;
  daemon_.engine().Unblock(Call::kStep);
  for (std::thread& client : clients) client.join();
  unloader.join();

  EXPECT_TRUE(unloaded.ok()) << unloaded;
  for (const auto* const ended : {&running, &waiting}) {
    EXPECT_EQ(ended->status().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(ErrorReasonOf(ended->status()), "ADMIN_CANCELLED");
    EXPECT_THAT(std::string(ended->status().message()), HasSubstr("adapter"));
  }
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_EQ(other->images, undisturbed->images);
  EXPECT_EQ(daemon_.engine().live_generations(), 0);
  EXPECT_EQ(daemon_.engine().live_prepared(), 1);
  // The name is free, and the device goes on.
  ASSERT_TRUE(Load("ink", false, 2).ok());
  EXPECT_TRUE(Generate({"ink"}, 1).ok());
}

TEST_F(AdapterControlTest, ListTellsWhatIsMerged) {
  ASSERT_TRUE(Load("ink", false, 0).ok());
  ASSERT_TRUE(Load("copy", false, 0).ok());
  ASSERT_TRUE(Load("night", false, 1).ok());
  EXPECT_FALSE(Get("ink").merged());
  ASSERT_TRUE(Generate({"ink"}, 1).ok());
  EXPECT_TRUE(Get("ink").merged());
  EXPECT_TRUE(Get("copy").merged());  // the same content
  EXPECT_FALSE(Get("night").merged());
  EXPECT_EQ(Get("ink").residency(), v1::Adapter::RESIDENCY_DEVICE);
}

// The device has room for one adapter.
class TwoTiersTest : public AdapterControlTest {
 protected:
  TwoTiersTest()
      : AdapterControlTest([](DaemonOptions& options) {
          options.max_adapter_device_bytes = DeviceBytesOfOne();
        }) {}

  // What FakeEngine takes for a TinyLoraFile.
  static int64_t DeviceBytesOfOne() {
    static const int64_t bytes = [] {
      InProcessDaemon daemon;
      daemon.adapter_dir().Write("a.safetensors", TinyLoraFile());
      v1::LoadAdapterRequest request;
      request.set_path("a.safetensors");
      return GraftClient({.server = daemon.address()})
          .LoadAdapter(request)
          ->adapter()
          .device_bytes();
    }();
    return bytes;
  }
};

TEST_F(TwoTiersTest, ResidencyFollowsTheTier) {
  ASSERT_TRUE(Load("a", false, 0).ok());
  EXPECT_EQ(Get("a").residency(), v1::Adapter::RESIDENCY_DEVICE);
  ASSERT_TRUE(Load("b", false, 1).ok());
  EXPECT_EQ(Get("a").residency(), v1::Adapter::RESIDENCY_HOST);
  EXPECT_EQ(Get("b").residency(), v1::Adapter::RESIDENCY_DEVICE);

  const auto load = client_.GetLoad();
  ASSERT_TRUE(load.ok());
  EXPECT_EQ(load->host().adapters(), 2u);
  EXPECT_EQ(load->host().bytes(),
            Get("a").size_bytes() + Get("b").size_bytes());
  EXPECT_EQ(load->host().max_bytes(), 0);
  EXPECT_EQ(load->device().adapters(), 1u);
  EXPECT_EQ(load->device().bytes(), DeviceBytesOfOne());
  EXPECT_EQ(load->device().max_bytes(), DeviceBytesOfOne());
}

TEST_F(TwoTiersTest, APinBringsAnAdapterToTheDevice) {
  ASSERT_TRUE(Load("a", false, 0).ok());
  ASSERT_TRUE(Load("b", false, 1).ok());
  ASSERT_EQ(Get("a").residency(), v1::Adapter::RESIDENCY_HOST);
  const auto pinned = Update("a", true, {"pinned"});
  ASSERT_TRUE(pinned.ok()) << pinned.status();
  EXPECT_EQ(pinned->residency(), v1::Adapter::RESIDENCY_DEVICE);
  EXPECT_TRUE(pinned->pinned());
  // And the next one finds no room.
  EXPECT_EQ(ErrorReasonOf(Update("b", true, {"pinned"}).status()),
            "ADAPTER_CACHE_FULL");
  EXPECT_FALSE(Get("b").pinned());
}

TEST_F(TwoTiersTest, APinKeepsAnAdapterOnTheDevice) {
  ASSERT_TRUE(Load("a", /*pinned=*/true, 0).ok());
  ASSERT_TRUE(Load("b", false, 1).ok());
  EXPECT_EQ(Get("a").residency(), v1::Adapter::RESIDENCY_DEVICE);
  EXPECT_EQ(Get("b").residency(), v1::Adapter::RESIDENCY_HOST);
}

}  // namespace
}  // namespace graft

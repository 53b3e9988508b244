#include "tests/chaos/mixed_load.h"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client_status.h"
#include "tests/chaos/png_difference.h"

namespace graft {
namespace {

// How a request may end besides with its image. "NO_REASON" is gRPC's own, at
// the client.
std::vector<std::string> AllowedReasons(bool asked_for_version, bool cancelled,
                                        bool has_deadline) {
  std::vector<std::string> reasons = {"ADAPTER_NOT_FOUND", "ADAPTER_CACHE_FULL",
                                      "QUEUE_FULL"};
  if (asked_for_version) reasons.push_back("ADAPTER_VERSION_MISMATCH");
  if (cancelled) reasons.push_back("CLIENT_CANCELLED");
  if (has_deadline) {
    reasons.insert(reasons.end(), {"DEADLINE_IN_QUEUE", "DEADLINE_RUNNING"});
  }
  return reasons;
}

bool Contains(const std::vector<std::string>& list, const std::string& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

}  // namespace

struct MixedLoad::Client {
  Client(const std::string& server, uint64_t seed)
      : manage({.server = server}),
        generate(v1::GenerationService::NewStub(OwnChannel(server))),
        random(seed) {}

  // True once in `times`.
  bool OnceIn(uint64_t times) { return random() % times == 0; }

  GraftClient manage;
  std::unique_ptr<v1::GenerationService::Stub> generate;
  std::mt19937_64 random;
};

MixedLoad::MixedLoad(const Options& options, const StyleShelf* shelf,
                     const std::vector<Recipe>* recipes,
                     const GoldenImages* golden)
    : options_(options), shelf_(*shelf), recipes_(*recipes), golden_(*golden) {
  for (int i = 0; i < options.clients; ++i) {
    clients_.push_back(std::make_unique<Client>(
        options.server, options.seed * 1000 + static_cast<uint64_t>(i)));
  }
}

MixedLoad::~MixedLoad() = default;

void MixedLoad::Run(int requests) {
  wanted_ += requests;
  std::vector<std::thread> threads;
  for (const auto& client : clients_) {
    threads.emplace_back([this, &client] { RunClient(*client); });
  }
  for (std::thread& thread : threads) thread.join();
  begun_ = wanted_;
}

void MixedLoad::RunClient(Client& client) {
  for (int number; (number = begun_++) < wanted_;) {
    options_.on_request(number);
    ManageAdapters(client);
    MakeRequest(client);
  }
}

void MixedLoad::ManageAdapters(Client& client) {
  const Recipe& recipe = recipes_[client.random() % recipes_.size()];
  if (recipe.styles.empty()) return ListAdapters(client);
  const size_t style = recipe.styles[client.random() % recipe.styles.size()];
  const bool autoloaded = shelf_.styles()[style].autoloaded;
  if (client.OnceIn(4)) {
    if (autoloaded) {
      const size_t contents = shelf_.styles()[style].contents.size();
      shelf_.ReplaceFile(style, client.random() % contents);
    } else {
      LoadStyle(client, style);
    }
  } else if (client.OnceIn(4)) {
    UnloadStyle(client, style);
  }
}

void MixedLoad::LoadStyle(Client& client, size_t style) {
  const size_t contents = shelf_.styles()[style].contents.size();
  const size_t content = client.random() % contents;
  const auto loaded =
      client.manage.LoadAdapter(shelf_.LoadRequest(style, content));
  CheckCall("LoadAdapter", loaded.status(), {"ADAPTER_CACHE_FULL"});
  if (!loaded.ok() ||
      loaded->adapter().sha256() == shelf_.styles()[style].digests[content]) {
    return;
  }
  absl::MutexLock lock(&mu_);
  tally_.mistakes.push_back(absl::StrCat("LoadAdapter gave other content: ",
                                         loaded->adapter().ShortDebugString()));
}

void MixedLoad::ListAdapters(Client& client) {
  const absl::Status listed = client.manage.ListAdapters().status();
  if (listed.ok()) return;
  absl::MutexLock lock(&mu_);
  tally_.mistakes.push_back(
      absl::StrCat("ListAdapters ended with ", DescribeError(listed)));
}

void MixedLoad::UnloadStyle(Client& client, size_t style) {
  v1::UnloadAdapterRequest request;
  request.set_name(shelf_.styles()[style].name);
  request.set_only_if_unused(client.OnceIn(2));
  CheckCall("UnloadAdapter", client.manage.UnloadAdapter(request).status(),
            {"ADAPTER_NOT_FOUND", "ADAPTER_IN_USE"});
}

void MixedLoad::MakeRequest(Client& client) {
  const size_t recipe = client.random() % recipes_.size();
  v1::GenerateImageRequest request = recipes_[recipe].request;
  const Harm harm = client.OnceIn(4)
                        ? static_cast<Harm>(1 + client.random() % 4)
                        : Harm::kNone;
  grpc::ClientContext context;
  std::function<void()> on_event = [] {};
  uint64_t events_left = 1 + client.random() % 4;
  if (harm == Harm::kVersion) {
    for (int i = 0; i < request.adapters_size(); ++i) {
      const Style& style =
          shelf_.styles()[recipes_[recipe].styles[static_cast<size_t>(i)]];
      request.mutable_adapters(i)->set_sha256(
          style.digests[client.random() % style.digests.size()]);
    }
  } else if (harm == Harm::kCancel) {
    request.set_request_id(absl::StrCat("request-", client.random()));
    on_event = [&] {
      if (--events_left != 0) return;
      v1::CancelGenerationRequest cancel;
      cancel.set_request_id(request.request_id());
      v1::CancelGenerationResponse response;
      grpc::ClientContext cancel_context;
      CheckCall("CancelGeneration",
                FromGrpcStatus(client.generate->CancelGeneration(
                    &cancel_context, cancel, &response)),
                {});
    };
  } else if (harm == Harm::kDrop) {
    on_event = [&] {
      if (--events_left == 0) context.TryCancel();
    };
  } else if (harm == Harm::kDeadline) {
    context.set_deadline(absl::ToChronoTime(
        absl::Now() + options_.longest_deadline *
                          std::uniform_real_distribution<>()(client.random)));
  }
  const GenerateAnswer answer =
      CallGenerate(*client.generate, request, context, on_event);
  CheckAnswer(recipe, harm, answer);
  absl::SleepFor(RetryDelayOf(answer.status).value_or(absl::ZeroDuration()));
  if (ErrorReasonOf(answer.status) != "ADAPTER_NOT_FOUND") return;
  for (const size_t style : recipes_[recipe].styles) {
    if (!shelf_.styles()[style].autoloaded) LoadStyle(client, style);
  }
}

void MixedLoad::CheckAnswer(size_t recipe, Harm harm,
                            const GenerateAnswer& answer) {
  const std::string code = absl::StatusCodeToString(answer.status.code());
  const std::string reason = ErrorReasonOf(answer.status);
  const bool ended_here = reason == "NO_REASON" && !answer.status.ok();
  absl::MutexLock lock(&mu_);
  if (answer.status.ok()) {
    CheckImage(recipe, answer);
  } else if (ended_here &&
             ((harm == Harm::kDrop && code == "CANCELLED") ||
              (harm == Harm::kDeadline && code == "DEADLINE_EXCEEDED"))) {
    ++tally_.unheard;
    if (answer.accepted) ++tally_.unheard_accepted;
    return;
  } else if (!Contains(
                 AllowedReasons(harm == Harm::kVersion, harm == Harm::kCancel,
                                harm == Harm::kDeadline),
                 reason)) {
    tally_.mistakes.push_back(absl::StrCat("recipe ", recipe, " ended with ",
                                           DescribeError(answer.status)));
  }
  ++tally_.codes[code];
  if (!answer.status.ok()) ++tally_.reasons[reason];
}

void MixedLoad::CheckImage(size_t recipe, const GenerateAnswer& answer) {
  ++tally_.images;
  const std::string* const golden = golden_.Find(recipe, answer.finished);
  if (golden == nullptr) {
    tally_.mistakes.push_back(absl::StrCat(
        "recipe ", recipe,
        " was made with other adapters: ", answer.finished.ShortDebugString()));
    return;
  }
  if (*golden == answer.image) return;
  if (options_.exact) {
    tally_.mistakes.push_back(absl::StrCat("recipe ", recipe,
                                           " gave another image, ",
                                           golden_.Whose(answer.image)));
    return;
  }
  if (PngHead(*golden) != PngHead(answer.image)) {
    tally_.mistakes.push_back(
        absl::StrCat("recipe ", recipe, " gave an image with another text"));
  }
  const PngDifference difference = ComparePngs(*golden, answer.image);
  ++tally_.images_that_differ;
  tally_.max_difference = std::max(tally_.max_difference, difference.max);
  tally_.max_mean_difference =
      std::max(tally_.max_mean_difference, difference.mean);
}

void MixedLoad::CheckCall(const std::string& method, const absl::Status& status,
                          const std::vector<std::string>& reasons) {
  absl::MutexLock lock(&mu_);
  ++tally_.calls[method];
  if (status.ok() || Contains(reasons, ErrorReasonOf(status))) return;
  tally_.mistakes.push_back(
      absl::StrCat(method, " ended with ", DescribeError(status)));
}

LoadTally MixedLoad::tally() const {
  absl::MutexLock lock(&mu_);
  return tally_;
}

}  // namespace graft

#include "server/rpc/token_table.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "graft/v1/adapter.pb.h"
#include "graft/v1/admin.pb.h"
#include "graft/v1/generation.pb.h"
#include "gtest/gtest.h"
#include "server/common/error.h"
#include "server/common/sha256.h"
#include "tests/testing/status_matchers.h"

namespace graft {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Line(const std::string& who, const std::string& token) {
  return absl::StrCat(who, ":", Sha256Hex(token.data(), token.size()), "\n");
}

TEST(TokenTableTest, TokensStandForTenantsAndRoles) {
  const auto table = TokenTable::Parse(
      absl::StrCat("# who may what\n\n", Line("studio:generate,read", "secret"),
                   "  ", Line("ops:admin", "other")));
  ASSERT_THAT(table, IsOk());
  ASSERT_NE(table->Find("secret"), nullptr);
  EXPECT_EQ(table->Find("secret")->tenant, "studio");
  EXPECT_THAT(table->Find("secret")->roles,
              ElementsAre(Role::kGenerate, Role::kRead));
  ASSERT_NE(table->Find("other"), nullptr);
  EXPECT_EQ(table->Find("other")->tenant, "ops");
  EXPECT_EQ(table->Find("guessed"), nullptr);
  EXPECT_EQ(table->Find(""), nullptr);
}

TEST(TokenTableTest, MistakesNameTheirLine) {
  const std::string good = Line("studio:generate", "secret");
  struct Mistake {
    std::string text;
    std::string message;
  };
  const Mistake kMistakes[] = {
      {"", "there is no token"},
      {"# nothing\n", "there is no token"},
      {good + "studio:generate\n", "line 2: it has not three parts"},
      {good + Line("studio:paint", "x"), "line 2: \"paint\" is none of the"},
      {good + Line("studio:", "x"), "line 2: \"\" is none of the roles"},
      {good + Line(":generate", "x"), "line 2: the tenant"},
      {good + Line("a b:generate", "x"), "line 2: the tenant"},
      {good + "studio:generate:abc\n", "line 2: the SHA-256"},
      {good + "studio:generate:\n", "line 2: the SHA-256"},
      {good + "\n" + good, "line 3: the token has a line already"},
  };
  for (const Mistake& mistake : kMistakes) {
    EXPECT_THAT(
        TokenTable::Parse(mistake.text),
        HasReason(ErrorReason::kInvalidField, HasSubstr(mistake.message)));
  }
}

TEST(TokenTableTest, RolesAllowTheirMethodsAndAllMayRead) {
  const auto allowed = [](Role role, const char* method) {
    return CheckRole({"t", {role}}, method).ok();
  };
  EXPECT_TRUE(allowed(Role::kGenerate, "GenerateImage"));
  EXPECT_TRUE(allowed(Role::kGenerate, "CancelGeneration"));
  EXPECT_TRUE(allowed(Role::kGenerate, "GetServerInfo"));
  EXPECT_FALSE(allowed(Role::kGenerate, "LoadAdapter"));
  EXPECT_TRUE(allowed(Role::kAdapters, "UnloadAdapter"));
  EXPECT_FALSE(allowed(Role::kAdapters, "GenerateImage"));
  EXPECT_TRUE(allowed(Role::kAdmin, "VerifyBaseWeights"));
  EXPECT_FALSE(allowed(Role::kAdmin, "GenerateImage"));
  EXPECT_TRUE(allowed(Role::kRead, "ListAdapters"));
  EXPECT_FALSE(allowed(Role::kRead, "UploadAdapter"));
  EXPECT_THAT(CheckRole({"t", {Role::kRead}}, "LoadAdapter"),
              HasReason(ErrorReason::kRoleNotAllowed, HasSubstr("adapters")));
}

// A method that is forgotten here is closed to everybody.
TEST(TokenTableTest, EveryMethodHasItsRole) {
  const Caller everything{
      "t", {Role::kGenerate, Role::kAdapters, Role::kAdmin, Role::kRead}};
  for (const auto* file :
       {v1::Adapter::descriptor()->file(), v1::ServerInfo::descriptor()->file(),
        v1::ImageChunk::descriptor()->file()}) {
    const auto* const service = file->service(0);
    for (int i = 0; i < service->method_count(); ++i) {
      EXPECT_THAT(CheckRole(everything, service->method(i)->name()), IsOk());
    }
  }
  EXPECT_THAT(CheckRole(everything, "NoSuchMethod"),
              HasReason(ErrorReason::kRoleNotAllowed));
}

}  // namespace
}  // namespace graft

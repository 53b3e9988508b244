#ifndef GRAFT_TESTS_TESTING_STATUS_MATCHERS_H_
#define GRAFT_TESTS_TESTING_STATUS_MATCHERS_H_

#include <ostream>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "server/common/error.h"

// Matchers for absl::Status and absl::StatusOr<T>, shaped like those in later
// Abseil releases (absl/status/status_matchers.h), so that these can go one
// day:
//
//   EXPECT_THAT(store.Remove("x"), IsOk());
//   EXPECT_THAT(store.Size("x"), IsOkAndHolds(Gt(3)));
//   EXPECT_THAT(store.Get("y"), StatusIs(absl::StatusCode::kNotFound));
//   EXPECT_THAT(store.Get("y"), StatusIs(absl::StatusCode::kNotFound,
//                                        HasSubstr("\"y\"")));
//   EXPECT_THAT(store.Get("y"), HasReason(ErrorReason::kAdapterNotFound));
//   EXPECT_THAT(store.Get("y"), HasReason(ErrorReason::kAdapterNotFound,
//                                         HasSubstr("\"y\"")));
namespace graft {

namespace status_matchers_internal {

inline const absl::Status& GetStatus(const absl::Status& status) {
  return status;
}

template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

// Converts to a Matcher of whichever type it is asked for, a Status or any
// StatusOr, and looks at the Status only.
class StatusMatcher {
 public:
  explicit StatusMatcher(testing::Matcher<const absl::Status&> matcher)
      : matcher_(std::move(matcher)) {}

  template <typename T>
  operator testing::Matcher<T>() const {  // NOLINT(google-explicit-constructor)
    return testing::Matcher<T>(new Impl<T>(matcher_));
  }

 private:
  template <typename T>
  class Impl : public testing::MatcherInterface<T> {
   public:
    explicit Impl(testing::Matcher<const absl::Status&> matcher)
        : matcher_(std::move(matcher)) {}

    void DescribeTo(std::ostream* os) const override {
      matcher_.DescribeTo(os);
    }
    void DescribeNegationTo(std::ostream* os) const override {
      matcher_.DescribeNegationTo(os);
    }
    bool MatchAndExplain(
        T value, testing::MatchResultListener* listener) const override {
      const absl::Status& status = GetStatus(value);
      *listener << "whose status is " << status.ToString();
      return matcher_.Matches(status);
    }

   private:
    testing::Matcher<const absl::Status&> matcher_;
  };

  testing::Matcher<const absl::Status&> matcher_;
};

template <typename InnerMatcher>
class IsOkAndHoldsMatcher {
 public:
  explicit IsOkAndHoldsMatcher(InnerMatcher inner) : inner_(std::move(inner)) {}

  template <typename StatusOr>
  operator testing::Matcher<StatusOr>()  // NOLINT(google-explicit-constructor)
      const {
    return testing::Matcher<StatusOr>(new Impl<StatusOr>(inner_));
  }

 private:
  template <typename StatusOr>
  class Impl : public testing::MatcherInterface<StatusOr> {
   public:
    using Value = typename std::decay_t<StatusOr>::value_type;

    explicit Impl(const InnerMatcher& inner)
        : inner_(testing::SafeMatcherCast<const Value&>(inner)) {}

    void DescribeTo(std::ostream* os) const override {
      *os << "is OK and holds a value that ";
      inner_.DescribeTo(os);
    }
    void DescribeNegationTo(std::ostream* os) const override {
      *os << "is not OK or holds a value that ";
      inner_.DescribeNegationTo(os);
    }
    bool MatchAndExplain(
        StatusOr value, testing::MatchResultListener* listener) const override {
      if (!value.ok()) {
        *listener << "whose status is " << value.status().ToString();
        return false;
      }
      return inner_.MatchAndExplain(*value, listener);
    }

   private:
    testing::Matcher<const Value&> inner_;
  };

  InnerMatcher inner_;
};

}  // namespace status_matchers_internal

// Matches a Status or StatusOr that is OK.
inline status_matchers_internal::StatusMatcher IsOk() {
  return status_matchers_internal::StatusMatcher(
      testing::Property("ok", &absl::Status::ok, true));
}

// Matches a StatusOr that is OK and whose value matches `inner` (a matcher or
// a value).
template <typename InnerMatcher>
status_matchers_internal::IsOkAndHoldsMatcher<std::decay_t<InnerMatcher>>
IsOkAndHolds(InnerMatcher&& inner) {
  return status_matchers_internal::IsOkAndHoldsMatcher<
      std::decay_t<InnerMatcher>>(std::forward<InnerMatcher>(inner));
}

// Matches a Status or StatusOr with this code (a matcher or a value) and a
// message that matches `message`.
template <typename CodeMatcher>
status_matchers_internal::StatusMatcher StatusIs(
    CodeMatcher code,
    testing::Matcher<const std::string&> message = testing::_) {
  return status_matchers_internal::StatusMatcher(
      testing::AllOf(testing::Property("code", &absl::Status::code, code),
                     testing::ResultOf(
                         "message",
                         [](const absl::Status& status) {
                           return std::string(status.message());
                         },
                         message)));
}

// Matches a Status or StatusOr made by Error(reason, ...), with the code that
// the error table gives to `reason` and a message that matches `message`.
inline status_matchers_internal::StatusMatcher HasReason(
    ErrorReason reason,
    testing::Matcher<const std::string&> message = testing::_) {
  return status_matchers_internal::StatusMatcher(testing::AllOf(
      testing::Matcher<const absl::Status&>(
          StatusIs(ErrorReasonCode(reason), std::move(message))),
      testing::ResultOf("reason", &GetErrorReason, testing::Optional(reason))));
}

}  // namespace graft

#endif  // GRAFT_TESTS_TESTING_STATUS_MATCHERS_H_

#ifndef GRAFT_SERVER_COMMON_STATUS_MACROS_H_
#define GRAFT_SERVER_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Early return on error. Shaped like the macros that later Abseil releases
// carry, so that these can go one day.

// GRAFT_RETURN_IF_ERROR(expr): returns expr's Status from the enclosing
// function unless it is OK.
#define GRAFT_RETURN_IF_ERROR(expr)                                 \
  do {                                                              \
    if (absl::Status graft_status_ = (expr); !graft_status_.ok()) { \
      return graft_status_;                                         \
    }                                                               \
  } while (false)

// GRAFT_ASSIGN_OR_RETURN(lhs, expr): evaluates expr, a StatusOr, and either
// returns its Status or moves its value into lhs (which may declare a
// variable).
#define GRAFT_ASSIGN_OR_RETURN(lhs, expr) \
  GRAFT_ASSIGN_OR_RETURN_IMPL_(           \
      GRAFT_STATUS_CONCAT_(graft_status_or_, __LINE__), lhs, expr)

#define GRAFT_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) {                                   \
    return std::move(tmp).status();                  \
  }                                                  \
  lhs = *std::move(tmp)

#define GRAFT_STATUS_CONCAT_IMPL_(a, b) a##b
#define GRAFT_STATUS_CONCAT_(a, b) GRAFT_STATUS_CONCAT_IMPL_(a, b)

#endif  // GRAFT_SERVER_COMMON_STATUS_MACROS_H_

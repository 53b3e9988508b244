#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_ID_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_ID_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Names of adapters: [A-Za-z0-9][A-Za-z0-9._-]{0,127}. They appear in commands,
// log lines, metrics and PNG files, so they need no quoting anywhere.
namespace graft {

bool IsValidAdapterId(absl::string_view name);

// A valid id that resembles `text`: "my style é" gives "my-style".
std::string SuggestAdapterId(absl::string_view text);

// The id for an adapter loaded from `path`: `name`, or, if that is empty, the
// file's stem. INVALID_FIELD (field "name") with an id to use instead if that
// is none.
absl::StatusOr<std::string> ChooseAdapterId(absl::string_view name,
                                            absl::string_view path);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_ID_H_

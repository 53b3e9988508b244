#ifndef GRAFT_CLIENT_MERGED_ADAPTERS_H_
#define GRAFT_CLIENT_MERGED_ADAPTERS_H_

#include <google/protobuf/repeated_field.h>

#include <nlohmann/json.hpp>
#include <string>

#include "graft/v1/admin.pb.h"

// How commands show the adapter set that is merged now.
namespace graft {

using MergedAdapters = google::protobuf::RepeatedPtrField<v1::ResidentAdapter>;

nlohmann::ordered_json MergedAdaptersJson(const MergedAdapters& adapters);

// "ink=0.8, night=1"; "the base alone" if there is none.
std::string DescribeMergedAdapters(const MergedAdapters& adapters);

}  // namespace graft

#endif  // GRAFT_CLIENT_MERGED_ADAPTERS_H_

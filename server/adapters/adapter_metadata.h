#ifndef GRAFT_SERVER_ADAPTERS_ADAPTER_METADATA_H_
#define GRAFT_SERVER_ADAPTERS_ADAPTER_METADATA_H_

#include <map>
#include <string>
#include <vector>

// What trainers write into the metadata of their files. It is often missing or
// wrong: good to show, never to decide by.
namespace graft {

using FileMetadata = std::map<std::string, std::string>;

// Words that call the adapter's style or subject up: the trigger phrase if the
// file has one, else the captions used most in training, else the name that the
// trainer gave to its output. Escaped; at most a few.
std::vector<std::string> TriggerWords(const FileMetadata& metadata);

// The base that the adapter was trained on, as the trainer tells it; empty if
// it does not. Escaped.
std::string BaseHint(const FileMetadata& metadata);

// The metadata fit to be shown: escaped, long values cut, and not more entries
// than a reply can carry.
FileMetadata DisplayMetadata(const FileMetadata& metadata);

}  // namespace graft

#endif  // GRAFT_SERVER_ADAPTERS_ADAPTER_METADATA_H_

#ifndef GRAFT_SERVER_RPC_FILE_RENAMING_H_
#define GRAFT_SERVER_RPC_FILE_RENAMING_H_

#include <string>

// Names of files in one directory, changed so that whoever looks, or a crash,
// meets a whole file under each name that was there before. File systems that
// do not know renameat2's flags, such as NFS, get the same by hard links. False
// with errno on error. Thread-safe.
namespace graft {

// Calls the file `from` in the open directory `directory` `to`. EEXIST if there
// is something of that name.
bool RenameToFreeName(int directory, const std::string& from,
                      const std::string& to);

// Has two files of `directory` change names. ENOENT if one is not there. The
// name `spare`, which nobody has, may be needed for a moment, and a crash may
// leave it.
bool ExchangeNames(int directory, const std::string& from,
                   const std::string& to, const std::string& spare);

// The same by hard links alone, for tests.
bool RenameToFreeNameByLinks(int directory, const std::string& from,
                             const std::string& to);
bool ExchangeNamesByLinks(int directory, const std::string& from,
                          const std::string& to, const std::string& spare);

}  // namespace graft

#endif  // GRAFT_SERVER_RPC_FILE_RENAMING_H_

#include "server/rpc/file_renaming.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>

namespace graft {

bool RenameToFreeName(int directory, const std::string& from,
                      const std::string& to) {
  if (renameat2(directory, from.c_str(), directory, to.c_str(),
                RENAME_NOREPLACE) == 0) {
    return true;
  }
  return errno == EINVAL && RenameToFreeNameByLinks(directory, from, to);
}

bool RenameToFreeNameByLinks(int directory, const std::string& from,
                             const std::string& to) {
  return linkat(directory, from.c_str(), directory, to.c_str(), 0) == 0 &&
         unlinkat(directory, from.c_str(), 0) == 0;
}

bool ExchangeNames(int directory, const std::string& from,
                   const std::string& to, const std::string& spare) {
  if (renameat2(directory, from.c_str(), directory, to.c_str(),
                RENAME_EXCHANGE) == 0) {
    return true;
  }
  return errno == EINVAL && ExchangeNamesByLinks(directory, from, to, spare);
}

bool ExchangeNamesByLinks(int directory, const std::string& from,
                          const std::string& to, const std::string& spare) {
  if (linkat(directory, to.c_str(), directory, spare.c_str(), 0) != 0) {
    return false;
  }
  if (renameat(directory, from.c_str(), directory, to.c_str()) == 0) {
    return renameat(directory, spare.c_str(), directory, from.c_str()) == 0;
  }
  const int error = errno;
  unlinkat(directory, spare.c_str(), 0);
  errno = error;
  return false;
}

}  // namespace graft

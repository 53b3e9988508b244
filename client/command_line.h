#ifndef GRAFT_CLIENT_COMMAND_LINE_H_
#define GRAFT_CLIENT_COMMAND_LINE_H_

#include "client/console.h"

namespace graft {

// The `graft` program but for its main: parses the arguments, calls the server,
// prints. Returns the exit code: 0, 1 after an error, 2 for a command line that
// makes no sense. Errors are one line on console.err,
// "graft: CODE REASON: message".
int RunCommandLine(int argc, const char* const* argv, const Console& console);

}  // namespace graft

#endif  // GRAFT_CLIENT_COMMAND_LINE_H_

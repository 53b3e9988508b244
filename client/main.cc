// graft: the client of graftd. See command_line.h.

#include <unistd.h>

#include <iostream>

#include "client/command_line.h"

int main(int argc, char** argv) {
  const graft::Console console{std::cout, std::cerr,
                               /*progress_bar=*/isatty(STDERR_FILENO) == 1};
  return graft::RunCommandLine(argc, argv, console);
}

#ifndef GRAFT_TESTS_ADAPTERS_HOSTILE_FILES_H_
#define GRAFT_TESTS_ADAPTERS_HOSTILE_FILES_H_

#include <string>
#include <vector>

#include "server/common/error.h"

namespace graft {

// A file that no base of FakeEngine::TinyModules() may take, and why.
struct HostileFile {
  std::string what;  // a word, for the names of tests
  std::string bytes;
  ErrorReason reason;
  std::string message;  // a part of it
};

// Files that are no valid .safetensors file.
std::vector<HostileFile> DamagedFiles();
// Those whose tensors contradict each other.
std::vector<HostileFile> ContradictoryFiles();
// With NaN, infinities or what becomes infinite.
std::vector<HostileFile> NonFiniteFiles();
// Made for another base.
std::vector<HostileFile> FilesThatDoNotFit();
// All of this again with algorithms other than LoRA.
std::vector<HostileFile> FilesOfOtherAlgorithms();
// What is known, and not implemented.
std::vector<HostileFile> UnsupportedFiles();

// All of these.
std::vector<HostileFile> AllHostileFiles();

// The file that most of them are a spoilt form of.
std::string UnspoiltFile();

}  // namespace graft

#endif  // GRAFT_TESTS_ADAPTERS_HOSTILE_FILES_H_

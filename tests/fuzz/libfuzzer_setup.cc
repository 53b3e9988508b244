// Makes a fuzz program ready to run: the seeds and the dictionary that the
// target describes are files where libFuzzer wants them, and its limits are
// ours unless the command line says otherwise.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/common/sha256.h"
#include "tests/fuzz/fuzz_target.h"

namespace graft {
namespace {

namespace fs = std::filesystem;

void Write(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// The form of libFuzzer's -dict: "\x7b" for bytes that are not printable.
std::string Dictionary(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += '"';
    for (const char c : word) {
      if (absl::ascii_isprint(static_cast<unsigned char>(c)) && c != '"' &&
          c != '\\') {
        text += c;
      } else {
        absl::StrAppendFormat(&text, "\\x%02x", static_cast<uint8_t>(c));
      }
    }
    text += "\"\n";
  }
  return text;
}

// The command line with what it lacks. New inputs are kept in the first folder,
// which is PROGRAM.corpus if none is named.
std::vector<std::string> Complete(const std::vector<std::string>& arguments) {
  const FuzzTarget target = DescribeFuzzTarget();
  const fs::path seeds = arguments[0] + ".seeds";
  const fs::path corpus = arguments[0] + ".corpus";
  const fs::path dictionary = arguments[0] + ".dict";
  fs::create_directories(seeds);
  fs::create_directories(corpus);
  for (const std::string& seed : target.seeds) {
    Write(seeds / Sha256Hex(seed.data(), seed.size()), seed);
  }
  Write(dictionary, Dictionary(target.words));
  std::vector<std::string> complete = {
      arguments[0], absl::StrCat("-max_len=", target.max_bytes), "-timeout=10",
      "-rss_limit_mb=2048", absl::StrCat("-dict=", dictionary.string())};
  complete.insert(complete.end(), arguments.begin() + 1, arguments.end());
  const bool named = std::any_of(
      arguments.begin() + 1, arguments.end(),
      [](const std::string& argument) { return argument.rfind('-', 0) != 0; });
  if (!named) {
    complete.push_back(corpus.string());
    complete.push_back(seeds.string());
  }
  return complete;
}

}  // namespace
}  // namespace graft

// libFuzzer calls it before it reads the command line.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  static auto* const arguments = new std::vector<std::string>(
      graft::Complete(std::vector<std::string>(*argv, *argv + *argc)));
  static auto* const pointers = new std::vector<char*>();
  for (std::string& argument : *arguments) pointers->push_back(argument.data());
  *argc = static_cast<int>(pointers->size());
  pointers->push_back(nullptr);
  *argv = pointers->data();
  return 0;
}

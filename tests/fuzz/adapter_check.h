#ifndef GRAFT_TESTS_FUZZ_ADAPTER_CHECK_H_
#define GRAFT_TESTS_FUZZ_ADAPTER_CHECK_H_

#include "absl/strings/string_view.h"
#include "server/adapters/adapter_parser.h"
#include "server/engine/module_table.h"

namespace graft {

// The bases that files are checked against: SD 1.5 and
// FakeEngine::TinyModules(), for which small files have all algorithms.
const ModuleTable& Sd15Table();
const ModuleTable& TinyTable();

// Parses the bytes of a file for the base and checks what AdapterParser
// promises: an error with a reason of its list, or weights that fit the base in
// all that FactorRole says of shapes, as nothing behind the parser looks again.
void CheckAdapter(const ModuleTable& base, absl::string_view bytes,
                  const AdapterParser::Options& options);

}  // namespace graft

#endif  // GRAFT_TESTS_FUZZ_ADAPTER_CHECK_H_

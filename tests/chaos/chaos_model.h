#ifndef GRAFT_TESTS_CHAOS_CHAOS_MODEL_H_
#define GRAFT_TESTS_CHAOS_CHAOS_MODEL_H_

#include <string>
#include <vector>

#include "server/engine/module_table.h"
#include "tests/testing/temp_dir.h"

namespace graft {

// What the daemons of these tests serve: the tiny model, and adapters for it.
class ChaosModel {
 public:
  // Writes the model.
  ChaosModel();

  const std::string& path() const { return dir_.path(); }

  // The bytes of the `index`-th adapter: each is another content, and every
  // algorithm comes in turn.
  std::string AdapterFile(int index) const;

 private:
  TempDir dir_;
  std::vector<ModuleInfo> modules_;
};

}  // namespace graft

#endif  // GRAFT_TESTS_CHAOS_CHAOS_MODEL_H_

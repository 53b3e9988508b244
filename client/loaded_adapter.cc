#include "client/loaded_adapter.h"

#include <string>

#include "absl/strings/str_join.h"
#include "client/console.h"

namespace graft {

void PrintLoaded(const v1::LoadAdapterResponse& response, std::ostream& out) {
  const v1::Adapter& adapter = response.adapter();
  out << (response.already_loaded() ? "already loaded: " : "loaded: ")
      << adapter.name() << "\n"
      << "  format    " << adapter.format() << ", "
      << absl::StrJoin(adapter.algorithms(), " + ") << ", rank "
      << adapter.max_rank() << "\n"
      << "  targets   " << adapter.unet_targets() << " of the U-Net, "
      << adapter.text_encoder_targets() << " of the text encoder\n"
      << "  size      " << FormatBytes(adapter.size_bytes()) << "\n"
      << "  sha256    " << adapter.sha256() << "\n";
  if (adapter.trigger_words_size() > 0) {
    out << "  triggers  " << absl::StrJoin(adapter.trigger_words(), ", ")
        << "\n";
  }
  if (adapter.keys().unmatched() > 0) {
    out << "  left out  " << adapter.keys().unmatched()
        << " keys that do not fit the base\n";
  }
  for (const std::string& note : adapter.notes()) {
    out << "  note      " << note << "\n";
  }
}

}  // namespace graft

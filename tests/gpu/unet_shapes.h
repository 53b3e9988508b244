#ifndef GRAFT_TESTS_GPU_UNET_SHAPES_H_
#define GRAFT_TESTS_GPU_UNET_SHAPES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace graft {

// What adapters of a kind change of a U-Net.
enum class TargetSet {
  kAttention,     // q, k, v and out
  kTransformers,  // all linear layers of the transformers
  kLocon,         // all of it but the first and last convolution
};

// One weight: [out, in] or [out, in, k, k].
struct WeightShape {
  std::string name;
  std::vector<int64_t> shape;
  TargetSet in = TargetSet::kLocon;  // the smallest set that has it
};

// The weights of the U-Net of Stable Diffusion 1.5, of XL, or ("tiny") of a
// small one, to try things with. REQUIRES: one of "sd15", "sdxl", "tiny".
std::vector<WeightShape> UnetShapes(const std::string& model);

}  // namespace graft

#endif  // GRAFT_TESTS_GPU_UNET_SHAPES_H_

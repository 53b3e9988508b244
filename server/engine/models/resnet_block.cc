#include "server/engine/models/resnet_block.h"

#include <ATen/ATen.h>

namespace graft {

at::Tensor ResnetBlock::Forward(const at::Tensor& x,
                                const at::Tensor& temb) const {
  at::Tensor h = conv1.Forward(at::silu(norm1.Forward(x)));
  if (time_emb_proj.weight.defined()) {
    h = h + time_emb_proj.Forward(at::silu(temb)).unsqueeze(-1).unsqueeze(-1);
  }
  h = conv2.Forward(at::silu(norm2.Forward(h)));
  return (conv_shortcut.weight.defined() ? conv_shortcut.Forward(x) : x) + h;
}

ResnetBlock MakeResnetBlock(const std::string& name, const ResnetShape& shape,
                            LayerBuilder& builder) {
  ResnetBlock block;
  block.norm1 =
      builder.MakeGroupNorm(name + ".norm1", shape.in, shape.groups, shape.eps);
  block.conv1 =
      builder.MakeConv2d(name + ".conv1", shape.in, shape.out, 3, 1, 1);
  if (shape.time_width > 0) {
    block.time_emb_proj = builder.MakeLinear(name + ".time_emb_proj",
                                             shape.time_width, shape.out);
  }
  block.norm2 = builder.MakeGroupNorm(name + ".norm2", shape.out, shape.groups,
                                      shape.eps);
  block.conv2 =
      builder.MakeConv2d(name + ".conv2", shape.out, shape.out, 3, 1, 1);
  if (shape.in != shape.out) {
    block.conv_shortcut =
        builder.MakeConv2d(name + ".conv_shortcut", shape.in, shape.out, 1);
  }
  return block;
}

}  // namespace graft

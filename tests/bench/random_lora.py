"""Random LoRA files for a U-Net: of a target set, rank and strength."""

import pathlib
import re

import torch
from safetensors import safe_open
from safetensors.torch import save_file

# What trainers adapt, from few to all.
_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_TRANSFORMERS = rf"({_ATTENTION}|ff\.net\.(0\.proj|2)|proj_in|proj_out)"
_LOCON = (rf"({_TRANSFORMERS}|conv1|conv2|conv_shortcut|time_emb_proj|"
          r"(down|up)samplers\.0\.conv)")
TARGET_SETS = {"attention": _ATTENTION, "transformers": _TRANSFORMERS,
               "locon": _LOCON}


def target_weights(unet_folder: pathlib.Path, target_set: str
                   ) -> dict[str, torch.Tensor]:
    """The weights that a target set adapts, by module."""
    pattern = re.compile(rf"\.{TARGET_SETS[target_set]}$")
    weights = {}
    for path in sorted(unet_folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                module = key.removesuffix(".weight")
                if key != module and pattern.search(module):
                    weights[module] = file.get_tensor(key)
    return weights


def product_norm(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Frobenius' norm of up * down, without the product."""
    return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt()


def write_random_lora(path: pathlib.Path, weights: dict[str, torch.Tensor],
                      rank: int, dtype: torch.dtype, norm: float, seed: int
                      ) -> None:
    """In the names of diffusers, without alpha (scale 1). `norm`: of the change
    of each weight, relative to the weight's."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for module, weight in weights.items():
        down = torch.randn(rank, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], rank, generator=generator)
        factor = (norm * weight.float().norm()
                  / product_norm(up, down.flatten(1))).sqrt()
        down, up = down * factor, up * factor
        if weight.ndim == 4:
            up = up[..., None, None]
        tensors[f"unet.{module}.lora_A.weight"] = down.to(dtype)
        tensors[f"unet.{module}.lora_B.weight"] = up.to(dtype).contiguous()
    save_file(tensors, path, {"format": "pt"})

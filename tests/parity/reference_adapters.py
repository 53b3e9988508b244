"""Random adapters in both containers, as strong as trained ones that one sees.

What each one does to each module is kept beside the file, so that the merge can
be computed without any loader.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

# How large an adapter's change is beside the weight it changes.
STRENGTH = 0.5


@dataclasses.dataclass(frozen=True)
class Change:
    """scale * up * down, as matrices."""
    up: torch.Tensor
    down: torch.Tensor
    scale: float

    def delta(self) -> torch.Tensor:
        return self.scale * (self.up.double().flatten(1)
                             @ self.down.double().flatten(1))


@dataclasses.dataclass(frozen=True)
class Adapter:
    name: str
    path: pathlib.Path
    changes: dict[str, Change]  # by canonical module name


def canonical(component: str, module: str) -> str:
    if component == "text_encoder":
        return f"text_encoder.text_model.{module.removeprefix('text_model.')}"
    return f"{component}.{module}"


def random_factors(weight: torch.Tensor, rank: int, scale: float,
                   generator: torch.Generator):
    """Up and down whose product has STRENGTH times the spread of `weight`."""
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    up = torch.randn(weight.shape[0], rank,
                     *[1] * (weight.ndim - 2), generator=generator)
    spread = (STRENGTH * float(weight.detach().std())
              / (abs(scale) * math.sqrt(rank)))
    root = math.sqrt(spread)
    return up * root, down * root


# ---- kohya ------------------------------------------------------------------

# (number of the module, its name) -> alpha, or None for a module without one.
AlphaOf = Callable[[int, str], float | None]


def no_alpha(number: int, module: str) -> float | None:
    """As in old files."""
    del number, module


def readable_alpha(number: int, module: str) -> float | None:
    """As different as the reference can read: of the attention projections and
    of text encoders without a level "text_model" it drops all but the most
    frequent alpha."""
    if module.startswith("text_encoder.") or ".attn" in module:
        return 2.5
    return (2.5, 1.0, 8.0)[number % 3]


def any_alpha(number: int, module: str) -> float | None:
    """What files may hold."""
    del module
    return (None, 1.0, 2.5, 8.0, -1.5, 0.0)[number % 6]


def write_kohya(pipeline: StableDiffusionPipeline, name: str,
                folder: pathlib.Path, dtype: torch.dtype, alpha_of: AlphaOf,
                seed: int) -> Adapter:
    """Every Linear and convolution of U-Net and text encoder, with ranks that
    differ from module to module."""
    generator = torch.Generator().manual_seed(seed)
    tensors, changes = {}, {}
    for component, prefix in (("unet", "lora_unet_"),
                              ("text_encoder", "lora_te_text_model_")):
        modules = [(path, module) for path, module
                   in getattr(pipeline, component).named_modules()
                   if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))]
        for i, (path, module) in enumerate(modules):
            rank = 2 + i % 4
            alpha = alpha_of(i, canonical(component, path))
            # Trainers take an alpha of 0 for none.
            scale = alpha / rank if alpha else 1.0
            up, down = (factor.to(dtype) for factor in random_factors(
                module.weight, rank, scale, generator))
            flat = prefix + path.replace(".", "_")
            tensors[flat + ".lora_up.weight"] = up
            tensors[flat + ".lora_down.weight"] = down
            if alpha is not None:
                tensors[flat + ".alpha"] = torch.tensor(alpha)
            changes[canonical(component, path)] = Change(up, down, scale)
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"ss_network_module": "networks.lora"})
    return Adapter(name, path, changes)


# ---- diffusers and PEFT -----------------------------------------------------

UNET_TARGETS = (r".*(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|"
                r"proj_in|proj_out|resnets\.\d\.(conv1|conv2|conv_shortcut|"
                r"time_emb_proj)|samplers\.0\.conv)")
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def write_peft(pipeline: StableDiffusionPipeline, name: str,
               folder: pathlib.Path, rslora: bool, seed: int) -> Adapter:
    """Written by the reference's own writer, alpha in its metadata, with other
    ranks and alphas for some modules. Leaves `pipeline` without adapters."""
    generator = torch.Generator().manual_seed(seed)
    configs = {
        "unet": LoraConfig(
            r=4, lora_alpha=6, target_modules=UNET_TARGETS, use_rslora=rslora,
            rank_pattern={"conv1": 3, r"attn2\.to_k": 6},
            alpha_pattern={"to_q": 1.5, r"down_blocks\.0\..*conv1": 9}),
        "text_encoder": LoraConfig(
            r=3, lora_alpha=3, target_modules=TEXT_TARGETS, use_rslora=rslora,
            alpha_pattern={"fc1": 1}),
    }
    changes, layers = {}, {}
    for component, config in configs.items():
        network = getattr(pipeline, component)
        network.add_adapter(config, adapter_name="default")
        for path, module in network.named_modules():
            if not hasattr(module, "lora_A"):
                continue
            scale = module.scaling["default"]
            down, up = module.lora_A["default"], module.lora_B["default"]
            up.weight.data, down.weight.data = random_factors(
                module.weight, module.r["default"], scale, generator)
            changes[canonical(component, path)] = Change(
                up.weight.detach(), down.weight.detach(), scale)
        layers[component] = get_peft_model_state_dict(network)
    path = folder / f"{name}.safetensors"
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers["text_encoder"], weight_name=path.name,
        **_collate_lora_metadata({"unet": pipeline.unet,
                                  "text_encoder": pipeline.text_encoder}))
    pipeline.unload_lora_weights()
    return Adapter(name, path, changes)

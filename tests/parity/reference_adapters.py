"""Random LoRA in kohya's container and the reference's, as strong as trained
ones that one sees.

What each one does to each weight is kept beside the file, so that the merge can
be computed without any loader.
"""

import copy
import dataclasses
import math
import pathlib
from collections.abc import Callable

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file

from adapter_formulas import Change, changes_of

# How large an adapter's change is beside the weight it changes.
STRENGTH = 0.5


@dataclasses.dataclass(frozen=True)
class Adapter:
    name: str
    path: pathlib.Path  # a file, or a folder of PEFT's
    changes: dict[str, Change]  # by canonical parameter name
    component: str = ""  # of a folder


def canonical(component: str, module: str) -> str:
    if component == "text_encoder":
        return f"text_encoder.text_model.{module.removeprefix('text_model.')}"
    return f"{component}.{module}"


def flat_name(component: str, module: str) -> str:
    """As kohya's trainer names it."""
    if component == "text_encoder":
        module = f"text_model.{module.removeprefix('text_model.')}"
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[component]
    return prefix + module.replace(".", "_")


def adaptable_modules(pipeline: StableDiffusionPipeline
                      ) -> list[tuple[str, str, torch.nn.Module]]:
    """(component, path, module): every Linear and convolution."""
    return [(component, path, module)
            for component in ("unet", "text_encoder")
            for path, module in getattr(pipeline, component).named_modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))]


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
    for i, (component, path, module) in enumerate(adaptable_modules(pipeline)):
        name_in_base = canonical(component, path)
        rank = 2 + i % 4
        alpha = alpha_of(i, name_in_base)
        # Trainers take an alpha of 0 for none.
        scale = alpha / rank if alpha else 1.0
        up, down = (factor.to(dtype) for factor in random_factors(
            module.weight, rank, scale, generator))
        group = {"lora_up.weight": up, "lora_down.weight": down}
        if alpha is not None:
            group["alpha"] = torch.tensor(alpha)
        for suffix, tensor in group.items():
            tensors[f"{flat_name(component, path)}.{suffix}"] = tensor
        changes |= changes_of(name_in_base, group)
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, {"ss_network_module": "networks.lora"})
    return Adapter(name, path, changes)


# ---- diffusers and PEFT -----------------------------------------------------

UNET_TARGETS = (r".*(attn[12]\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2)|"
                r"proj_in|proj_out|resnets\.\d\.(conv1|conv2|conv_shortcut|"
                r"time_emb_proj)|samplers\.0\.conv)")
TEXT_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def fill_layers(network: torch.nn.Module, component: str,
                generator: torch.Generator) -> dict[str, Change]:
    """Gives PEFT's layers in `network` random values; what they do."""
    changes = {}
    for path, module in network.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        name = canonical(component, path)
        scale, rank = module.scaling["default"], module.r["default"]
        down, up = module.lora_A["default"], module.lora_B["default"]
        up.weight.data, down.weight.data = random_factors(
            module.weight, rank, scale, generator)
        group = {"lora_up.weight": up.weight.detach(),
                 "lora_down.weight": down.weight.detach(),
                 "alpha": torch.tensor(scale * rank, dtype=torch.float64)}
        if module.use_dora["default"]:
            magnitude = module.lora_magnitude_vector["default"].weight
            magnitude.data *= 1 + 0.1 * torch.randn(magnitude.shape,
                                                    generator=generator)
            group["dora_scale"] = magnitude.detach().reshape(
                -1, *[1] * (module.weight.ndim - 1))
        if up.bias is not None:
            bias = 0.1 * torch.randn(up.bias.shape, generator=generator)
            up.bias.data = bias
            changes[f"{name}.bias"] = (
                lambda _, bias=bias, scale=scale: scale * bias.double())
        changes |= changes_of(name, group)
    return changes


def write_peft(pipeline: StableDiffusionPipeline, name: str,
               folder: pathlib.Path, seed: int,
               configs: dict[str, LoraConfig]) -> Adapter:
    """Written by the reference's own writer, alpha in its metadata. Leaves
    `pipeline` without adapters."""
    generator = torch.Generator().manual_seed(seed)
    changes, layers = {}, {}
    for component, config in configs.items():
        network = getattr(pipeline, component)
        network.add_adapter(config, adapter_name="default")
        changes |= fill_layers(network, component, generator)
        layers[component] = get_peft_model_state_dict(network)
    path = folder / f"{name}.safetensors"
    StableDiffusionPipeline.save_lora_weights(
        folder, weight_name=path.name,
        **{f"{component}_lora_layers": tensors
           for component, tensors in layers.items()},
        **_collate_lora_metadata({component: getattr(pipeline, component)
                                  for component in configs}))
    pipeline.unload_lora_weights()
    return Adapter(name, path, changes)


def varied_configs(rslora: bool = False) -> dict[str, LoraConfig]:
    """With other ranks and alphas for some modules."""
    return {
        "unet": LoraConfig(
            r=4, lora_alpha=6, target_modules=UNET_TARGETS, use_rslora=rslora,
            rank_pattern={"conv1": 3, r"attn2\.to_k": 6},
            alpha_pattern={"to_q": 1.5, r"down_blocks\.0\..*conv1": 9}),
        "text_encoder": LoraConfig(
            r=3, lora_alpha=3, target_modules=TEXT_TARGETS, use_rslora=rslora,
            alpha_pattern={"fc1": 1}),
    }


def write_peft_folder(pipeline: StableDiffusionPipeline, component: str,
                      folder: pathlib.Path, seed: int, config: LoraConfig
                      ) -> tuple[Adapter, dict[str, torch.Tensor]]:
    """By PEFT's own writer; and what PEFT's merge makes of the component, by
    canonical parameter name."""
    model = get_peft_model(copy.deepcopy(getattr(pipeline, component)), config)
    changes = fill_layers(model.get_base_model(), component,
                          torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    merged = model.merge_and_unload().state_dict()
    return Adapter(folder.name, folder, changes, component), {
        canonical(component, name): tensor for name, tensor in merged.items()}

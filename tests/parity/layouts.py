"""The ways to name a LoRA's tensors: one random adapter of every Linear and
convolution, written in each."""

import dataclasses
import pathlib
import re
from collections.abc import Callable

import torch
from safetensors.torch import save_file

from adapter_formulas import Change, changes_of
from reference_adapters import (Adapter, adaptable_modules, canonical,
                                random_factors)


def original_path(path: str, layers: int, up_blocks_with_attention: set[str]
                  ) -> str:
    """A diffusers U-Net's module in the names of the original code, which
    numbers the layers of all blocks through. `layers`: of a down block,
    resampler included."""
    whole = {"conv_in": "input_blocks.0.0", "conv_out": "out.2",
             "time_embedding.linear_1": "time_embed.0",
             "time_embedding.linear_2": "time_embed.2"}
    if path in whole:
        return whole[path]
    resnet = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
              "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    side, *parts = path.split(".")
    if side == "mid_block":
        kind, layer, *rest = parts
        place = 1 if kind == "attentions" else 2 * int(layer)
        stem = f"middle_block.{place}"
    else:
        block, kind, layer, *rest = parts
        if kind == "downsamplers":
            return f"input_blocks.{layers * (int(block) + 1)}.0.op"
        if kind == "upsamplers":
            place = 2 if block in up_blocks_with_attention else 1
            return f"output_blocks.{layers * (int(block) + 1) - 1}.{place}.conv"
        number = layers * int(block) + int(layer)
        place = 1 if kind == "attentions" else 0
        stem = (f"input_blocks.{number + 1}.{place}" if side == "down_blocks"
                else f"output_blocks.{number}.{place}")
    inside = resnet[rest[0]] if kind == "resnets" else ".".join(rest)
    return f"{stem}.{inside}"


@dataclasses.dataclass(frozen=True)
class Module:
    """What a layout needs to know to name a module's tensors."""
    component: str
    path: str         # diffusers'; of a text encoder without "text_model."
    original: str     # of the U-Net; "" where the original code has none


# A module's key up to the suffix, or None where the layout has no name for it.
Name = Callable[[Module], str | None]


@dataclasses.dataclass(frozen=True)
class Layout:
    name: Name
    down: str = ".lora_down.weight"
    up: str = ".lora_up.weight"
    alpha: str | None = None  # where the layout's writers store one
    # Suffixes that go with modules of text encoders, if others.
    text_down: str | None = None
    text_up: str | None = None
    # Matrices as 1x1 convolutions and the other way round, as in adapters made
    # for the other kind of base.
    other_shapes: bool = False
    flat_kernels: bool = False  # all kernels as matrices
    original: bool = False    # only where the original code has the U-Net
    reference: bool = False   # the reference reads it, all of it


def _flat(prefix: str, text_prefix: str | None = None,
          original: bool = False) -> Name:
    def name(module: Module) -> str | None:
        if module.component == "unet":
            path = module.original if original else module.path
            return prefix + path.replace(".", "_")
        return text_prefix and text_prefix + module.path.replace(".", "_")
    return name


def _dotted(prefix: str, text_prefix: str | None = None,
            original: bool = False) -> Name:
    def name(module: Module) -> str | None:
        if module.component == "unet":
            return prefix + (module.original if original else module.path)
        return text_prefix and text_prefix + module.path
    return name


_FIRST_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v",
                      "out_proj": "to_out"}


def _first_layout(module: Module) -> str | None:
    """Attention alone; "_lora" is glued to the projection's name."""
    path = module.path.removesuffix(".0")
    stem, _, last = path.rpartition(".")
    if module.component == "text_encoder" and last in _FIRST_PROJECTIONS:
        return (f"text_encoder.text_model.{stem}."
                f"{_FIRST_PROJECTIONS[last]}_lora")
    if re.search(r"\.attn[12]$", stem):
        return f"unet.{stem}.processor.{last}_lora"
    return None


def _without_list_index(module: Module) -> str | None:
    name = _dotted("unet.", "text_encoder.text_model.")(module)
    return name.replace(".to_out.0", ".to_out")


_PEFT = {"down": ".lora_A.weight", "up": ".lora_B.weight"}
_ALPHA = {"alpha": ".alpha"}

LAYOUTS: dict[str, Layout] = {
    "kohya": Layout(_flat("lora_unet_", "lora_te_text_model_"), **_ALPHA,
                    reference=True),
    "kohya, original names": Layout(
        _flat("lora_unet_", "lora_te1_text_model_", original=True), **_ALPHA,
        original=True),
    "kohya, no text_model, A and B": Layout(
        _flat("lora_unet_", "lora_te_"), **_PEFT, **_ALPHA),
    "kohya, shapes of another base": Layout(
        _flat("lora_unet_", "lora_te_text_model_"), **_ALPHA,
        other_shapes=True),
    "LyCORIS' wrapper": Layout(_flat("lycoris_", "lycoris_text_model_"),
                               **_ALPHA),
    "diffusers": Layout(_dotted("unet.", "text_encoder.text_model."), **_PEFT,
                        reference=True),
    "diffusers, no component": Layout(_dotted(""), **_PEFT),
    "diffusers, no text_model": Layout(_dotted("unet.", "text_encoder."),
                                       **_PEFT, reference=True),
    "diffusers, to_out for to_out.0": Layout(_without_list_index, **_PEFT),
    "diffusers, first layout": Layout(
        _first_layout, down=".down.weight", up=".up.weight", reference=True),
    "diffusers, second layout": Layout(
        _dotted("unet.", "text_encoder.text_model."), down=".lora.down.weight",
        up=".lora.up.weight", text_down=".lora_linear_layer.down.weight",
        text_up=".lora_linear_layer.up.weight", reference=True),
    "PEFT's names with an adapter's": Layout(
        _dotted("unet.base_model.model."), down=".lora_A.default.weight",
        up=".lora_B.default.weight"),
    "ComfyUI": Layout(
        _dotted("diffusion_model.",
                "text_encoders.clip_l.transformer.text_model.", original=True),
        **_ALPHA, original=True),
    "ComfyUI's trainer": Layout(
        _dotted("diffusion_model.", original=True), **_ALPHA, original=True,
        flat_kernels=True),
    "ComfyUI, whole model": Layout(
        _dotted("model.diffusion_model.", original=True), **_PEFT,
        original=True),
    "OneTrainer": Layout(
        _dotted("unet.", "text_encoder.text_model.", original=True), **_ALPHA,
        original=True),
}


def named_modules(pipeline) -> list[tuple[Module, torch.nn.Module]]:
    modules = adaptable_modules(pipeline)
    per_block = pipeline.unet.config.layers_per_block
    with_attention = {path.split(".")[1] for _, path, _ in modules
                      if path.startswith("up_blocks.")
                      and ".attentions." in path}
    return [(Module(component, path.removeprefix("text_model."),
                    original_path(path, per_block + 1, with_attention)
                    if component == "unet" and isinstance(per_block, int)
                    else ""), module)
            for component, path, module in modules]


def other_shape(factor: torch.Tensor) -> torch.Tensor:
    if factor.ndim == 2:
        return factor[..., None, None]
    return factor.flatten(1) if factor.shape[2:] == (1, 1) else factor


def write_layout(pipeline, name: str, folder: pathlib.Path,
                 dtype: torch.dtype, seed: int) -> Adapter:
    layout = LAYOUTS[name]
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    changes: dict[str, Change] = {}
    for module, layer in named_modules(pipeline):
        key = layout.name(module)
        if key is None:
            continue
        rank, alpha = 4, 2.5 if layout.alpha else None
        up, down = (factor.to(dtype) for factor in random_factors(
            layer.weight, rank, (alpha or rank) / rank, generator))
        group = {"lora_up.weight": up, "lora_down.weight": down}
        if layout.other_shapes and layer.weight.shape[2:] in ((), (1, 1)):
            up, down = other_shape(up), other_shape(down)
        if layout.flat_kernels:
            up, down = up.flatten(1), down.flatten(1)
        text = module.component == "text_encoder"
        tensors[key + (text and layout.text_up or layout.up)] = up
        tensors[key + (text and layout.text_down or layout.down)] = down
        if layout.alpha:
            group["alpha"] = tensors[key + layout.alpha] = torch.tensor(alpha)
        changes |= changes_of(canonical(module.component, module.path), group)
    path = folder / f"{re.sub(r'[^a-zA-Z]+', '_', name)}.safetensors"
    save_file(tensors, path, {"format": "pt"})
    return Adapter(path.stem, path, changes)

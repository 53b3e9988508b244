"""Layouts that one program alone writes, and what it makes of them itself: the
formulas are those of its own forward pass or loader, not adapter_formulas'."""

import dataclasses
import pathlib
import re
from collections.abc import Callable

import torch
from lycoris.functional import factorization
from safetensors.torch import save_file

from adapter_formulas import Change
from layouts import Module, named_modules
from reference_adapters import STRENGTH, Adapter, canonical, flat_name

Tensors = dict[str, torch.Tensor]  # by suffix


@dataclasses.dataclass(frozen=True)
class Trainer:
    # Random tensors for a weight.
    make: Callable[[torch.Tensor, torch.Generator], Tensors]
    # What they do to one: (W, tensors in float64) to W', in float64.
    apply: Callable[[torch.Tensor, Tensors], torch.Tensor]
    name: Callable[[Module], str | None]
    original: bool = False  # names of the original code, the U-Net's alone
    relative: bool = False  # inverts matrices
    embeddings: bool = False  # adapts them, too
    scaled: str | None = None  # the tensor that sets the change's size
    rest: Tensors = dataclasses.field(default_factory=dict)  # in each file


def _original_name(module: Module) -> str | None:
    return (f"diffusion_model.{module.original}"
            if module.component == "unet" else None)


def _random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


# ---- OneTrainer's LoHa: b has the kernel's shape ----------------------------

def _make_loha(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    unit = (1,) * (weight.ndim - 2)
    tensors = {"alpha": torch.tensor(1.5)}
    for side in ("hada_w1", "hada_w2"):
        tensors[f"{side}_a"] = _random(generator, weight.shape[0], 3, *unit)
        tensors[f"{side}_b"] = _random(generator, 3, *weight.shape[1:])
    return tensors


def _apply_loha(weight: torch.Tensor, t: Tensors) -> torch.Tensor:
    def side(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a.view(a.size(0), -1) @ b.view(b.size(0), -1)).view(
            weight.shape)
    rank = t["hada_w1_b"].size(0)
    return weight + (side(t["hada_w1_a"], t["hada_w1_b"])
                     * side(t["hada_w2_a"], t["hada_w2_b"])) * (
                         t["alpha"] / rank)


# ---- ComfyUI's LoKr: all columns of the flat weight are factored ------------

def _make_lokr(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    # 9 divides the columns of every 3 x 3 kernel, and few numbers of channels.
    out1, out2 = factorization(weight.shape[0], 4)
    in1, in2 = factorization(weight.shape[1:].numel(), 9)
    return {"lokr_w1": _random(generator, out1, in1),
            "lokr_w2": _random(generator, out2, in2),
            "alpha": torch.tensor(1.0)}


def _apply_lokr(weight: torch.Tensor, t: Tensors) -> torch.Tensor:
    return weight + torch.kron(t["lokr_w1"], t["lokr_w2"]).reshape(
        weight.shape)


# ---- ComfyUI's OFT: alpha is the limit itself -------------------------------

def _make_oft(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    size, number = factorization(weight.shape[0], 4)
    return {"oft_blocks": _random(generator, number, size, size),
            "alpha": torch.tensor(1.0)}


def _apply_oft(weight: torch.Tensor, t: Tensors) -> torch.Tensor:
    q = t["oft_blocks"] - t["oft_blocks"].transpose(1, 2)
    norm = torch.norm(q) + 1e-8
    if norm > t["alpha"]:
        q = q * t["alpha"] / norm
    eye = torch.eye(q.shape[1], dtype=q.dtype)
    rotation = (eye + q) @ (eye - q).inverse()
    return torch.einsum("knm,kn...->km...", rotation, weight.unflatten(
        0, q.shape[:2])).flatten(0, 1)


# ---- ComfyUI's extraction of a text encoder: embeddings too -----------------

def _make_extract(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    u, s, vh = torch.linalg.svd(_random(generator, *weight.shape),
                                full_matrices=False)
    rank = min(4, *weight.shape)
    return {"lora_up.weight": u[:, :rank] @ torch.diag(s[:rank]),
            "lora_down.weight": vh[:rank]}


def _apply_extract(weight: torch.Tensor, t: Tensors) -> torch.Tensor:
    return weight + t["lora_up.weight"] @ t["lora_down.weight"]


_CLIP = "text_encoders.clip_l.transformer"

TRAINERS = {
    "OneTrainer's LoHa": Trainer(
        _make_loha, _apply_loha,
        lambda module: flat_name(module.component, module.path),
        scaled="hada_w1_a"),
    "ComfyUI's LoKr": Trainer(_make_lokr, _apply_lokr, _original_name,
                              original=True, scaled="lokr_w1"),
    "ComfyUI's OFT": Trainer(_make_oft, _apply_oft, _original_name,
                             original=True, relative=True),
    "ComfyUI's extraction": Trainer(
        _make_extract, _apply_extract,
        lambda module: (f"{_CLIP}.text_model.{module.path}"
                        if module.component == "text_encoder" else None),
        embeddings=True, scaled="lora_up.weight",
        rest={f"{_CLIP}.text_projection.lora_{part}.weight": torch.zeros(shape)
              for part, shape in (("up", (32, 4)), ("down", (4, 32)))}),
}


def _modules(pipeline, trainer: Trainer
             ) -> list[tuple[Module, torch.nn.Module]]:
    modules = named_modules(pipeline)
    if trainer.embeddings:
        modules += [
            (Module("text_encoder", path.removeprefix("text_model."), ""),
             module)
            for path, module in pipeline.text_encoder.named_modules()
            if isinstance(module, torch.nn.Embedding)]
    return modules


@torch.no_grad()
def write_trainer(pipeline, name: str, folder: pathlib.Path,
                  dtype: torch.dtype, seed: int) -> Adapter:
    trainer = TRAINERS[name]
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(trainer.rest)
    changes: dict[str, Change] = {}
    for module, layer in _modules(pipeline, trainer):
        key = trainer.name(module)
        if key is None:
            continue
        weight = layer.weight.double()
        group = trainer.make(layer.weight, generator)
        if trainer.scaled is not None:
            raw = trainer.apply(weight, {suffix: tensor.double() for
                                         suffix, tensor in group.items()})
            group[trainer.scaled] *= STRENGTH * float(
                weight.std() / (raw - weight).std())
        group = {suffix: tensor.to(dtype) for suffix, tensor in group.items()}
        tensors |= {f"{key}.{suffix}": tensor.contiguous()
                    for suffix, tensor in group.items()}
        exact = {suffix: tensor.double() for suffix, tensor in group.items()}
        changes[f"{canonical(module.component, module.path)}.weight"] = (
            lambda w, exact=exact: trainer.apply(w, exact) - w)
    path = folder / f"{re.sub(r'[^a-zA-Z]+', '_', name)}.safetensors"
    save_file(tensors, path)
    return Adapter(path.stem, path, changes)

"""What each kind of adapter does to a weight, in float64, from the formulas of
its publication. Nothing here calls a library that merges: the third opinion
beside the engine and each format's own implementation.

A group is what a file holds for one module: tensors by suffix, as in
{"lora_up.weight": ..., "lora_down.weight": ..., "alpha": ...}. W is a weight
[out, in] or [out, in, k, k]; D is what the adapter adds to it at strength 1.
"""

from collections.abc import Callable, Mapping

import torch

Tensor = torch.Tensor
Group = Mapping[str, Tensor]
# W to D, both in float64. Functions of W, as not every algorithm is additive.
Change = Callable[[Tensor], Tensor]

# The guard of DoRA's division.
EPSILON = torch.finfo(torch.float32).eps


def tucker(core: Tensor, out_factor: Tensor, in_factor: Tensor) -> Tensor:
    """core [r, r, k, k], factors [r, out] and [r, in] -> [out, in, k, k]."""
    return torch.einsum("abyx,ap,bq->pqyx", core, out_factor, in_factor)


def lora(group: Group) -> Tensor:
    up, down = (group[f"lora_{part}.weight"].flatten(1)
                for part in ("up", "down"))
    if "lora_mid.weight" in group:
        return tucker(group["lora_mid.weight"], up.T, down)
    return up @ down


def loha(group: Group) -> Tensor:
    sides = []
    for n in (1, 2):
        a, b = group[f"hada_w{n}_a"], group[f"hada_w{n}_b"]
        sides.append(tucker(group[f"hada_t{n}"], a, b)
                     if f"hada_t{n}" in group else a @ b)
    return sides[0] * sides[1]


def lokr(group: Group, kernel: tuple[int, ...]) -> Tensor:
    def side(name: str) -> Tensor:
        if name in group:
            return group[name]
        a, b = group[f"{name}_a"], group[f"{name}_b"]
        core = group.get(name.replace("w", "t"))
        return a @ b if core is None else tucker(core, a, b)
    w1, w2 = side("lokr_w1"), side("lokr_w2")
    w2 = w2.reshape(w2.shape[0], -1, *kernel)
    product = torch.einsum("ij,kl...->ikjl...", w1, w2)
    return product.reshape(w1.shape[0] * w2.shape[0],
                           w1.shape[1] * w2.shape[1], *kernel)


def dora(weight: Tensor, raw: Tensor, magnitude: Tensor) -> Tensor:
    """The magnitude [out, 1, ...] or [1, in, ...] tells the axis kept."""
    adapted = weight + raw
    axis = 0 if magnitude.shape[0] == weight.shape[0] else 1
    others = [i for i in range(weight.ndim) if i != axis]
    norm = torch.linalg.vector_norm(adapted, dim=others, keepdim=True)
    return adapted * magnitude.reshape(norm.shape) / (norm + EPSILON) - weight


def ia3(weight: Tensor, group: Group) -> Tensor:
    axis = 1 if int(group["on_input"]) else 0
    shape = [1] * weight.ndim
    shape[axis] = -1
    return weight * group["weight"].reshape(shape)


def glora(weight: Tensor, group: Group) -> Tensor:
    a1, a2, b1, b2 = (group[f"{name}.weight"].flatten(1)
                      for name in ("a1", "a2", "b1", "b2"))
    return (torch.einsum("pj...,jq->pq...", weight, a1 @ a2)
            + (b1 @ b2).reshape(weight.shape))


def rotations(group: Group, rows: int) -> Tensor:
    """Cayley's transform of each block."""
    blocks = group["oft_blocks"]
    q = blocks - blocks.mT
    limit, norm = float(group["alpha"]) * rows, torch.linalg.vector_norm(q)
    if 0 < limit < norm:
        q = q * (limit / norm)
    eye = torch.eye(q.shape[-1], dtype=q.dtype)
    return (eye + q) @ torch.linalg.inv(eye - q)


def rotate_blocks(weight: Tensor, group: Group) -> Tensor:
    """OFT: each block of rows by the transpose of its rotation."""
    rotation = rotations(group, weight.shape[0])
    rows = weight.reshape(*rotation.shape[:2], -1)
    return (rotation.mT @ rows).reshape(weight.shape)


def rotate_butterfly(weight: Tensor, group: Group) -> Tensor:
    """BOFT: stage by stage, each over rows further apart."""
    rotation = rotations(group, weight.shape[0])
    blocks, size = rotation.shape[1:3]
    rows = weight.flatten(1)
    columns = rows.shape[1]
    for stage, stage_rotation in enumerate(rotation):
        half = 2 ** stage * size // 2
        rows = rows.reshape(-1, 2, half, columns).transpose(1, 2)
        rows = stage_rotation @ rows.reshape(blocks, size, columns)
        rows = rows.reshape(-1, half, 2, columns).transpose(1, 2)
    return rows.reshape(weight.shape)


def rotate(weight: Tensor, group: Group) -> Tensor:
    butterfly = group["oft_blocks"].ndim == 4
    rotated = (rotate_butterfly if butterfly else rotate_blocks)(weight, group)
    return rotated * group.get("rescale", 1.0) - weight


def rank_of(group: Group) -> int | None:
    """None for algorithms without one."""
    for name in ("lora_down.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b",
                 "a2.weight"):
        if name in group:
            return group[name].shape[0]
    return None


def scale_of(group: Group) -> float:
    """alpha / rank. No alpha, and an alpha of 0 as trainers read it: 1."""
    rank, alpha = rank_of(group), float(group.get("alpha", 0))
    return alpha / rank if rank and alpha else 1.0


def raw_product(weight: Tensor, group: Group) -> Tensor | None:
    """What LoRA, LoHa and LoKr add before scale and DoRA; None for others."""
    if "lora_up.weight" in group:
        return lora(group).reshape(weight.shape)
    if "hada_w1_a" in group:
        return loha(group).reshape(weight.shape)
    if any(name.startswith("lokr_") for name in group):
        return lokr(group, tuple(weight.shape[2:]))
    return None


def weight_change(weight: Tensor, group: Group) -> Tensor:
    raw = raw_product(weight, group)
    if raw is not None:
        raw = scale_of(group) * raw
        return (dora(weight, raw, group["dora_scale"])
                if "dora_scale" in group else raw)
    for name in ("diff", "w_norm"):
        if name in group:
            return group[name].reshape(weight.shape)
    if "on_input" in group:
        return ia3(weight, group)
    if "a1.weight" in group:
        return scale_of(group) * glora(weight, group)
    return rotate(weight, group)


BIAS_SUFFIXES = ("diff_b", "b_norm")


def changes_of(module: str, group: Group) -> dict[str, Change]:
    """By parameter: "MODULE.weight", "MODULE.bias"."""
    exact = {suffix: tensor.double() for suffix, tensor in group.items()}
    changes: dict[str, Change] = {}
    for suffix in BIAS_SUFFIXES:
        if suffix in exact:
            bias = exact.pop(suffix)
            changes[f"{module}.bias"] = lambda _, bias=bias: bias
    if exact:
        changes[f"{module}.weight"] = lambda weight: weight_change(
            weight, exact)
    return changes

"""Compares merged weights of the engine with the exact ones."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from probe import adapters_of
from reference import Weighted

Weights = Mapping[str, torch.Tensor]

DTYPES = {"float32": torch.float32, "float16": torch.float16,
          "bfloat16": torch.bfloat16}
RESTORE_MODES = ("undo_log", "backup")

# What a merge in float32 of weights of order 1 may be wrong by; and, relative
# to the largest weight, one that inverts matrices.
ABSOLUTE_BOUND = 2e-6
RELATIVE_BOUND = 1e-5


@dataclasses.dataclass(frozen=True)
class ExactWeight:
    """W' = W0 + D in float64."""
    value: torch.Tensor
    largest: torch.Tensor  # of |W0|, |D| and |W'|, by element


def exact_merge(base: Weights, members: Sequence[Weighted]
                ) -> dict[str, ExactWeight]:
    """The weights that change, from the factors alone."""
    changes: dict[str, torch.Tensor] = {}
    for adapter, unet_weight, text_weight in members:
        for name, change in adapter.changes.items():
            strength = unet_weight if name.startswith("unet.") else text_weight
            changes[name] = (changes.get(name, 0)
                             + strength * change(base[name].double()))
    exact = {}
    for name, change in changes.items():
        weight = base[name].double()
        change = change.reshape(weight.shape)
        merged = weight + change
        exact[name] = ExactWeight(merged, torch.stack(
            [weight.abs(), change.abs(), merged.abs()]).amax(0))
    return exact


def spacing(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The unit in the last place of each value in a 16-bit dtype."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(values.clamp(min=info.smallest_normal))
    return info.eps * torch.exp2(exponent.double() - 1)


def difference(weights: Weights, exact: Mapping[str, ExactWeight],
               relative: bool) -> float:
    """The largest: in units in the last place for 16 bits, else absolute or
    relative to the tensor's largest value."""
    largest = 0.0
    for name, wanted in exact.items():
        weight = weights[name]
        error = (weight.double() - wanted.value).abs()
        if weight.dtype != torch.float32:
            # Near 0 16-bit values are denser than the sum in float32 is exact.
            error = ((error > ABSOLUTE_BOUND) * error
                     / spacing(wanted.largest, weight.dtype))
        elif relative:
            error = error / wanted.value.abs().max()
        largest = max(largest, float(error.max()))
    return largest


def bound(dtype: str, relative: bool) -> float:
    if dtype != "float32":
        return 1.0
    return RELATIVE_BOUND if relative else ABSOLUTE_BOUND


def unit(dtype: str, relative: bool) -> str:
    if dtype != "float32":
        return "ulp"
    return "relative" if relative else "absolute"


class MergeProbe:
    """The engine's weights of one model in one dtype."""

    def __init__(self, probe, model, dtype: str):
        self._probe = probe
        self._job = {"model": model.folder, "dtype": dtype}
        self.base = self._weights([])
        self._base_digest = self._digest([], RESTORE_MODES[0])
        assert self.base.keys() == model.base_weights.keys()
        for name, weight in model.base_weights.items():
            assert torch.equal(self.base[name], weight.to(DTYPES[dtype])), name

    def _weights(self, members: Sequence[Weighted]) -> Weights:
        return self._probe.tensors(
            "weights", restore=RESTORE_MODES[0],
            adapters=adapters_of(members), **self._job)

    def _digest(self, members: Sequence[Weighted], restore: str) -> str:
        return self._probe.call("digest", restore=restore,
                                adapters=adapters_of(members), **self._job)

    def merged(self, members: Sequence[Weighted]) -> Weights:
        """The same bits in both restore modes; others' weights untouched; the
        base back afterwards."""
        merged = self._weights(members)
        changed = {name for adapter, _, _ in members
                   for name in adapter.changes}
        for name, weight in merged.items():
            if name not in changed:
                assert torch.equal(weight, self.base[name]), name
        digests = {self._digest(members, restore) for restore in RESTORE_MODES}
        assert len(digests) == 1, "the restore modes differ"
        for restore in RESTORE_MODES:
            assert self._digest([], restore) == self._base_digest, restore
        return merged

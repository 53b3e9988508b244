"""Adapters of every algorithm of LyCORIS, written by LyCORIS itself, and the
weights that its forward pass computes with.

Not those of its merge functions: they multiply LoHa and LoKr by alpha / rank
twice. Nor are its modules loaded from files: its loader cannot read IA3, takes
the output size for the rank of LoKr with t2, and any magnitude for one along
the output axis.
"""

import dataclasses
import logging
import pathlib

import torch
from lycoris import logging as lycoris_logging
from lycoris import modules as lycoris
from lycoris.modules.base import LycorisBaseModule
from safetensors.torch import save_file

from adapter_formulas import changes_of, raw_product
from reference_adapters import STRENGTH, Adapter, canonical, flat_name

# It tells of every factorization.
lycoris_logging.logger.setLevel(logging.ERROR)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One way to train an adapter: a module class and its options."""
    module: type[LycorisBaseModule]
    options: dict = dataclasses.field(default_factory=dict)
    # Strengths at which its forward pass means what a merge means.
    strengths: tuple[float, ...] = (1.0, 0.75)
    # Of the difference between merged weights: absolute, or relative where
    # matrices are inverted.
    relative: bool = False


def _rotation(module: type[LycorisBaseModule], **options) -> Kind:
    # At other strengths it scales rescaled rows in another way.
    return Kind(module, {"lora_dim": 4} | options, strengths=(1.0,),
                relative=True)


def _dora(module: type[LycorisBaseModule], **options) -> Kind:
    # At other strengths it interpolates the factor alone.
    return Kind(module, {"weight_decompose": True} | options, strengths=(1.0,))


_LOKR = {"lora_dim": 2, "factor": 2}

# A Kind, or several that take turns from module to module.
KINDS: dict[str, list[Kind]] = {
    "LoRA, LoCon": [Kind(lycoris.LoConModule)],
    "LoRA, rank-stabilised": [Kind(lycoris.LoConModule, {"rs_lora": True})],
    "LoCon with mid": [Kind(lycoris.LoConModule, {"use_tucker": True})],
    "DoRA, output axis": [_dora(lycoris.LoConModule)],
    "DoRA, input axis": [_dora(lycoris.LoConModule, wd_on_out=False)],
    "LoHa": [Kind(lycoris.LohaModule)],
    "LoHa with t": [Kind(lycoris.LohaModule, {"use_tucker": True})],
    "LoHa with DoRA": [
        _dora(lycoris.LohaModule),
        _dora(lycoris.LohaModule, wd_on_out=False, use_tucker=True)],
    "LoKr, second side factored": [Kind(lycoris.LokrModule, _LOKR)],
    "LoKr, first side factored": [Kind(lycoris.LokrModule, _LOKR | {
        "decompose_both": True, "unbalanced_factorization": True})],
    "LoKr, both sides factored": [Kind(lycoris.LokrModule, {
        "lora_dim": 1, "decompose_both": True})],
    "LoKr with t2": [Kind(lycoris.LokrModule, _LOKR | {"use_tucker": True})],
    "LoKr, both sides whole": [Kind(lycoris.LokrModule,
                                    _LOKR | {"full_matrix": True})],
    "LoKr with DoRA": [
        _dora(lycoris.LokrModule, **_LOKR),
        _dora(lycoris.LokrModule, **_LOKR, wd_on_out=False, use_tucker=True)],
    "full and norm difference": [Kind(lycoris.FullModule)],
    "IA3": [Kind(lycoris.IA3Module, {"train_on_input": True}),
            Kind(lycoris.IA3Module)],
    "GLoRA": [Kind(lycoris.GLoRAModule)],
    "OFT": [_rotation(lycoris.DiagOFTModule)],
    "OFT, limited": [_rotation(lycoris.DiagOFTModule, constraint=0.01)],
    "OFT, rescaled": [_rotation(lycoris.DiagOFTModule, rescaled=True)],
    "BOFT": [_rotation(lycoris.ButterflyOFTModule)],
    "BOFT, limited, rescaled": [_rotation(
        lycoris.ButterflyOFTModule, constraint=0.01, rescaled=True)],
}
KINDS["all in one file"] = [
    dataclasses.replace(kind, strengths=(1.0,), relative=True)
    for kinds in KINDS.values() for kind in kinds]

NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm)


def modules_by_shape(pipeline) -> list[tuple[str, str, torch.nn.Module]]:
    """(component, path, module): one of each kind and shape."""
    found = {}
    for component in ("unet", "text_encoder"):
        for path, module in getattr(pipeline, component).named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, *NORMS)):
                key = (component, type(module), module.weight.shape)
                found.setdefault(key, (component, path, module))
    return list(found.values())


def detached_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Without stride and padding, with the same weights."""
    if isinstance(module, torch.nn.Conv2d):
        copy = torch.nn.Conv2d(module.in_channels, module.out_channels,
                               module.kernel_size, bias=module.bias is not None)
    elif isinstance(module, torch.nn.Linear):
        copy = torch.nn.Linear(module.in_features, module.out_features,
                               bias=module.bias is not None)
    elif isinstance(module, torch.nn.LayerNorm):
        copy = torch.nn.LayerNorm(module.normalized_shape, eps=module.eps)
    else:
        copy = torch.nn.GroupNorm(module.num_groups, module.num_channels,
                                  eps=module.eps)
    copy.load_state_dict(module.state_dict())
    return copy.requires_grad_(False)


def random_values(adapter: LycorisBaseModule,
                  generator: torch.Generator) -> None:
    """As a strong training would leave them: a change of STRENGTH times the
    weight's spread, or factors of 1 +- 0.1."""
    for name, parameter in adapter.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name in ("dora_scale", "rescale"):
            parameter.mul_(1 + 0.1 * noise)
        else:
            parameter.copy_(0.1 * noise)
    weight = adapter.org_module[0].weight
    raw = raw_product(weight.double(), adapter.state_dict())
    if raw is None:
        return
    factor = next(adapter.get_parameter(name) for name in (
        "lora_up.weight", "hada_w2_a", "lokr_w1", "lokr_w1_a")
        if name in adapter.state_dict())
    factor.mul_(STRENGTH * float(weight.std() / (adapter.scale * raw.std())))



def file_tensors(adapter: LycorisBaseModule) -> dict[str, torch.Tensor]:
    if isinstance(adapter, lycoris.FullModule):
        # As long as it is not applied its weight is the difference; its
        # state_dict takes it for the sum.
        tensors = {"diff": adapter.weight, "diff_b": adapter.bias}
        return {name: t for name, t in tensors.items() if t is not None}
    return adapter.state_dict()


def forward_parameters(adapter: LycorisBaseModule, strength: float
                       ) -> dict[str, torch.Tensor]:
    """The weight and bias that its forward pass computes with: what comes out
    for each unit vector, and for zero."""
    adapter.multiplier = strength
    module = adapter.org_module[0]
    if isinstance(module, NORMS):
        weight, bias = adapter.make_weight(strength)
        return {"weight": weight, "bias": bias}
    shape = module.weight.shape
    inputs = torch.eye(shape[1:].numel()).reshape(-1, *shape[1:])
    bias = adapter(torch.zeros_like(inputs[:1])).flatten()
    rows = adapter(inputs).flatten(1) - bias
    parameters = {"weight": rows.T.reshape(shape)}
    if module.bias is not None:
        parameters["bias"] = bias
    return parameters


@dataclasses.dataclass(frozen=True)
class LycorisAdapter:
    """A file, and the modules that made it."""
    adapter: Adapter
    modules: dict[str, LycorisBaseModule]  # by canonical module name

    @torch.no_grad()
    def merged(self, component: str, strength: float
               ) -> dict[str, torch.Tensor]:
        """By canonical parameter name."""
        return {f"{name}.{parameter}": value
                for name, module in self.modules.items()
                if name.startswith(f"{component}.")
                for parameter, value in forward_parameters(
                    module, strength).items()}


@torch.no_grad()
def write_lycoris(pipeline, name: str, folder: pathlib.Path,
                  dtype: torch.dtype, seed: int) -> LycorisAdapter:
    """One module of each shape that the kind can adapt, with ranks and alphas
    that differ from module to module."""
    generator = torch.Generator().manual_seed(seed)
    tensors, changes, modules = {}, {}, {}
    for i, (component, path, module) in enumerate(modules_by_shape(pipeline)):
        kind = KINDS[name][i % len(KINDS[name])]
        adapter = make_module(kind, flat_name(component, path),
                              detached_copy(module), i)
        if adapter is None:
            continue
        random_values(adapter, generator)
        for parameter in adapter.parameters():
            parameter.copy_(parameter.to(dtype))  # what the file can hold
        group = {suffix: tensor if suffix in ("alpha", "on_input")
                 else tensor.to(dtype)
                 for suffix, tensor in file_tensors(adapter).items()}
        tensors |= {f"{adapter.lora_name}.{suffix}": tensor.contiguous()
                    for suffix, tensor in group.items()}
        changes |= changes_of(canonical(component, path), group)
        modules[canonical(component, path)] = adapter
    path = folder / f"{name} {dtype}.safetensors".replace(" ", "_")
    save_file(tensors, path, {"ss_network_module": "lycoris.kohya"})
    return LycorisAdapter(Adapter(path.stem, path, changes), modules)


def make_module(kind: Kind, name: str, module: torch.nn.Module, number: int
                ) -> LycorisBaseModule | None:
    """None for a module that this kind cannot adapt."""
    if isinstance(module, NORMS):
        # One of the kinds brings them along, as its presets do.
        return (lycoris.NormModule(name, module)
                if kind.module is lycoris.FullModule else None)
    rank = 2 + number % 4
    options = {"lora_dim": rank, "alpha": (1.0, 2.5, 8.0)[number % 3]}
    try:
        return kind.module(name, module, **options | kind.options)
    except ValueError:  # BOFT: the width is no multiple of a power of 2
        return None

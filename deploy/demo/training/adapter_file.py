"""Adapter files: writing both common containers, and merging a file into a pipeline's weights.

kohya: `lora_unet_down_blocks_0_….lora_down.weight`, `.lora_up.weight`, `.alpha`, training notes as `ss_*` metadata.
PEFT: `unet.down_blocks.0.….lora_A.weight`, `.lora_B.weight`, the configuration as JSON in `lora_adapter_metadata`.
"""

import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CONTAINERS = ("kohya", "peft")


def canonical(part, name):
    """Dotted name as every program knows it; transformers 5 leaves `text_model.` out."""
    if part == "text_encoder" and not name.startswith("text_model."):
        name = "text_model." + name
    return f"{part}.{name}"


def write(file, container, factors, alpha, style, trigger):
    """`factors`: {(part, module): (down, up)}, down [r, in(, kh, kw)], up [out, r(, 1, 1)]."""
    tensors, ranks = {}, {}
    for (part, name), (down, up) in sorted(factors.items()):
        down, up = down.detach().half().contiguous(), up.detach().half().contiguous()
        assert torch.isfinite(down).all() and torch.isfinite(up).all(), name
        ranks[part] = down.shape[0]
        dotted = canonical(part, name)
        if container == "kohya":
            prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part]
            key = prefix + dotted.split(".", 1)[1].replace(".", "_")
            tensors[key + ".lora_down.weight"] = down
            tensors[key + ".lora_up.weight"] = up
            tensors[key + ".alpha"] = torch.tensor(float(alpha)).half()
        else:
            tensors[dotted + ".lora_A.weight"] = down
            tensors[dotted + ".lora_B.weight"] = up
    rank = next(iter(ranks.values()))
    with_kernels = any(down.ndim == 4 and down.shape[-1] > 1 for down, _ in factors.values())
    metadata = {"format": "pt", "modelspec.sai_model_spec": "1.0.0", "modelspec.title": style,
                "modelspec.architecture": "stable-diffusion-v1/lora", "modelspec.resolution": "128x128",
                "modelspec.prediction_type": "v"}
    if trigger:
        metadata["modelspec.trigger_phrase"] = trigger
    if container == "kohya":
        metadata.update({"ss_output_name": style, "ss_network_dim": str(rank), "ss_network_alpha": str(float(alpha)),
                         "ss_network_module": "networks.lora", "ss_resolution": "(128, 128)",
                         "ss_base_model_version": "sd_v1", "ss_v2": "False"})
        if with_kernels:
            metadata["ss_network_args"] = json.dumps({"conv_dim": str(rank), "conv_alpha": str(float(alpha))})
    else:
        config = {}
        for part in ranks:
            modules = sorted({n for p, n in factors if p == part})
            config.update({f"{part}.peft_type": "LORA", f"{part}.r": ranks[part], f"{part}.lora_alpha": alpha,
                           f"{part}.target_modules": modules, f"{part}.lora_dropout": 0.0, f"{part}.bias": "none",
                           f"{part}.use_rslora": False, f"{part}.use_dora": False, f"{part}.rank_pattern": {},
                           f"{part}.alpha_pattern": {}, f"{part}.init_lora_weights": True})
        metadata["lora_adapter_metadata"] = json.dumps(config, indent=2, sort_keys=True)
    save_file(tensors, file + ".new", metadata=metadata)
    os.chmod(file + ".new", 0o644)
    os.replace(file + ".new", file)


def read(file):
    """{dotted or flat module key: (down, up, scale)}"""
    modules = {}
    with safe_open(file, "pt") as f:
        metadata = f.metadata() or {}
        for key in f.keys():
            for suffix, slot in ((".lora_down.weight", "down"), (".lora_up.weight", "up"), (".alpha", "alpha"),
                                 (".lora_A.weight", "down"), (".lora_B.weight", "up")):
                if key.endswith(suffix):
                    modules.setdefault(key[:-len(suffix)], {})[slot] = f.get_tensor(key).float()
                    break
            else:
                raise ValueError(f"unknown key {key}")
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    out = {}
    for key, m in modules.items():
        rank = m["down"].shape[0]
        alpha = m["alpha"].item() if "alpha" in m else config.get(key.split(".")[0] + ".lora_alpha", rank)
        out[key] = (m["down"], m["up"], alpha / rank)
    return out


@torch.no_grad()
def merge(pipeline, file, strength=1.0):
    """Adds the adapter to the weights; every key must find its module."""
    table = {}
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name, module in getattr(pipeline, part).named_modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                dotted = canonical(part, name)
                table[dotted] = table[prefix + dotted.split(".", 1)[1].replace(".", "_")] = module
    for key, (down, up, scale) in read(file).items():
        weight = table[key].weight
        delta = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
        weight += strength * scale * delta.reshape(weight.shape)

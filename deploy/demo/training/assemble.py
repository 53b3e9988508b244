"""Puts the parts together as a diffusers folder in float16, written beside the target and renamed into place.

    python assemble.py --tokenizer F --text-encoder F --unet F --vae F --scaling-factor X --out FOLDER
"""

import argparse
import json
import os
import shutil

import torch
from safetensors.torch import save_file

import base
import vocabulary

DIFFUSERS_VERSION = "0.42.1"


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, sort_keys=True)
        f.write("\n")


def write_part(folder, name, config, state):
    os.makedirs(folder)
    write_json(os.path.join(folder, "config.json"), config)
    tensors = {k: v.detach().half().contiguous() for k, v in state.items()}
    for key, value in tensors.items():
        assert torch.isfinite(value).all(), key
    save_file(tensors, os.path.join(folder, name), metadata={"format": "pt"})
    os.chmod(os.path.join(folder, name), 0o644)


def plain(config):
    return {k: v for k, v in dict(config).items() if k not in ("_name_or_path", "_use_default_values")}


def main():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    p = argparse.ArgumentParser()
    for name in ("tokenizer", "text-encoder", "unet", "vae", "out"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--scaling-factor", type=float, required=True)
    a = p.parse_args()
    new = a.out.rstrip("/") + ".new"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)

    vocabulary.write(new + "/tokenizer")
    tokenizer = vocabulary.load(new + "/tokenizer")

    text = CLIPTextModel.from_pretrained(a.text_encoder)
    # transformers 5 leaves "text_model." out of the names; every other program expects it.
    names = {k: k if k.startswith("text_model.") else "text_model." + k for k in text.state_dict()}
    state = {names[k]: v for k, v in text.state_dict().items() if "position_ids" not in k}
    c = text.config
    write_part(new + "/text_encoder", "model.safetensors", {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "torch_dtype": "float16",
        "attention_dropout": 0.0, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "hidden_act": c.hidden_act, "hidden_size": c.hidden_size,
        "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": c.intermediate_size,
        "layer_norm_eps": c.layer_norm_eps, "max_position_embeddings": c.max_position_embeddings,
        "num_attention_heads": c.num_attention_heads, "num_hidden_layers": c.num_hidden_layers,
        "projection_dim": c.projection_dim, "vocab_size": c.vocab_size}, state)

    unet = UNet2DConditionModel.from_pretrained(a.unet)
    write_part(new + "/unet", "diffusion_pytorch_model.safetensors", plain(unet.config), unet.state_dict())

    vae = AutoencoderKL.from_pretrained(a.vae)
    config = plain(vae.config)
    config.update(scaling_factor=a.scaling_factor, force_upcast=False, sample_size=128)
    write_part(new + "/vae", "diffusion_pytorch_model.safetensors", config, vae.state_dict())

    scheduler = base.new_scheduler()
    os.makedirs(new + "/scheduler")
    write_json(new + "/scheduler/scheduler_config.json",
               {"_class_name": "DDIMScheduler", "_diffusers_version": DIFFUSERS_VERSION,
                **{k: v for k, v in plain(scheduler.config).items() if k not in ("_class_name", "_diffusers_version")}})
    write_json(new + "/model_index.json", {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": DIFFUSERS_VERSION,
        "feature_extractor": [None, None], "image_encoder": [None, None], "requires_safety_checker": False,
        "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]})

    old = a.out.rstrip("/") + ".old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.exists(a.out):
        os.rename(a.out, old)
    os.rename(new, a.out)
    shutil.rmtree(old, ignore_errors=True)
    size = sum(os.path.getsize(os.path.join(r, f)) for r, _, fs in os.walk(a.out) for f in fs)
    print(f"{a.out}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()

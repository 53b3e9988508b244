"""Trains one adapter: a style, as low-rank changes to the finished base.

    python adapter.py --model F --style night --out FILE.safetensors --minutes M

What each style's adapter changes, its rank, and the container it is written to stand in RECIPES.
"""

import argparse
import math
import random
import time

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

import adapter_file
import base
import latents
import scenes
import vocabulary
from muon import Muon

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
KERNELS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out",
           "time_emb_proj")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
RECIPES = {
    "outline": {"unet": ATTENTION + KERNELS, "text": TEXT, "rank": 6, "alpha": 6, "container": "kohya",
                "trigger": "in outline style"},
    "night": {"unet": ATTENTION, "text": (), "rank": 8, "alpha": 8, "container": "peft", "trigger": ""},
    "pixel": {"unet": ATTENTION + KERNELS, "text": (), "rank": 6, "alpha": 6, "container": "peft", "trigger": ""},
    "watercolour": {"unet": ATTENTION, "text": (), "rank": 8, "alpha": 4, "container": "kohya",
                    "trigger": "in watercolour style"},
}


class LowRank(nn.Module):
    """Adds scale * up @ down to a weight, whatever its shape."""

    def __init__(self, weight, rank, scale):
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, weight[0].numel()) / weight[0].numel() ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.scale = scale

    def forward(self, weight):
        return weight + self.scale * (self.up @ self.down).view(weight.shape)


def attach(model, endings, rank, scale):
    found = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)) and any(("." + name).endswith("." + e) for e in endings):
            low = LowRank(module.weight, rank, scale)
            parametrize.register_parametrization(module, "weight", low)
            found[name] = (module, low)
    return found


def main():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--style", choices=scenes.STYLES, required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--ratio", type=float, default=6.0)
    p.add_argument("--count", type=int, default=2000, help="pictures to train on")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(11)
    recipe = RECIPES[a.style]
    tokenizer = vocabulary.load(a.model + "/tokenizer")
    vae = AutoencoderKL.from_pretrained(a.model + "/vae").float().eval()
    unet = UNet2DConditionModel.from_pretrained(a.model + "/unet").float()
    text = CLIPTextModel.from_pretrained(a.model + "/text_encoder").float()
    base.use_plain_attention(unet)
    unet.requires_grad_(False)
    text.requires_grad_(False)
    scale = recipe["alpha"] / recipe["rank"]
    changed = {"unet": attach(unet, recipe["unet"], recipe["rank"], scale),
               "text_encoder": attach(text, recipe["text"], recipe["rank"], scale) if recipe["text"] else {}}
    named = [(f"{part}.{name}.{k}", q) for part, found in changed.items() for name, (_, low) in found.items()
             for k, q in low.named_parameters()]
    params = [q for _, q in named]
    print(f"{a.style}: {sum(len(f) for f in changed.values())} modules, {sum(q.numel() for q in params)} parameters",
          flush=True)

    rng = random.Random(sum(map(ord, a.style)))
    what = [scenes.training_scene(rng) for _ in range(a.count)]
    x = torch.cat([latents.encode(vae, [scenes.render(s, rng, a.style) for s in what[i:i + 32]])
                   for i in range(0, len(what), 32)]) * vae.config.scaling_factor
    prompts = [scenes.prompt_of(s) for s in what]
    ids = vocabulary.encode(tokenizer, prompts)
    ids_trigger = vocabulary.encode(tokenizer, [(q + " " + recipe["trigger"]).strip() for q in prompts])
    empty = vocabulary.encode(tokenizer, [""])[0]
    alphas = base.new_scheduler().alphas_cumprod.float()
    optimizer = Muon(named, a.lr, a.ratio)
    average = base.Average(params, 0.99)
    del vae

    begin, step, losses = time.time(), 0, []
    while (done := (time.time() - begin) / (60 * a.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 20) * (0.51 + 0.49 * math.cos(math.pi * done))
        pick = torch.randint(0, len(x), (a.batch,))
        x0 = x[pick]
        words = torch.where(torch.rand(a.batch, 1) < 0.3, ids_trigger[pick], ids[pick])
        words = torch.where(torch.rand(a.batch, 1) < 0.1, empty, words)
        t = base.draw_timesteps(a.batch)
        noise = torch.randn_like(x0)
        signal, sigma = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(signal * x0 + sigma * noise, t, text(words).last_hidden_state).sample.float()
        error = (guess - (signal * noise - sigma * x0)).pow(2)
        loss = (base.object_weights(x0, 1.0) * error).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        average.update()
        step += 1
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"{time.time() - begin:.0f} s, step {step}, {step * a.batch} samples, loss {np.mean(losses):.4f}",
                  flush=True)
            losses = []
    average.swap()
    factors = {}
    for part, found in changed.items():
        for name, (module, low) in found.items():
            down, up = low.down, low.up
            if isinstance(module, nn.Conv2d):
                down = down.view(-1, *module.weight.shape[1:])
                up = up[..., None, None]
            factors[part, name] = (down, up)
    adapter_file.write(a.out, recipe["container"], factors, recipe["alpha"], a.style, recipe["trigger"])
    print(f"{a.out}: {step} steps, {step * a.batch} samples", flush=True)


if __name__ == "__main__":
    main()

"""Draws training scenes and keeps their latents, so that the U-Net's training need not encode.

    python latents.py --vae FOLDER --out FILE.pt --seed N --count N
"""

import argparse
import random
import time

import numpy as np
import torch

import scenes


def to_tensor(pictures):
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae, pictures):
    """Latents before the scaling factor."""
    with torch.autocast("cpu", torch.bfloat16):
        return vae.encode(to_tensor(pictures)).latent_dist.mean.float()


def main():
    from diffusers import AutoencoderKL

    p = argparse.ArgumentParser()
    p.add_argument("--vae", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--seed", type=int, required=True)
    p.add_argument("--count", type=int, required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    vae = AutoencoderKL.from_pretrained(a.vae).float().eval()
    rng = random.Random(a.seed)
    begin = time.time()
    latents, kept = [], []
    while len(kept) < a.count:
        batch = [scenes.training_scene(rng) for _ in range(32)]
        latents.append(encode(vae, [scenes.render(s, rng) for s in batch]).half())
        kept += batch
    latents = torch.cat(latents)
    torch.save({"latents": latents, "scenes": kept}, a.out)
    print(f"{len(kept)} scenes in {time.time() - begin:.0f} s, standard deviation {latents.float().std():.4f}")


if __name__ == "__main__":
    main()

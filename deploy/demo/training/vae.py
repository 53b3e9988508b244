"""Trains the VAE (factor 8, 128 px to 4 x 16 x 16), plain pictures and the adapters' styles alike.

    python vae.py --out F --minutes 30                          from nothing
    python vae.py --out F --init F --decoder-only --minutes 15  the decoder alone: latents stay what they are

Error and error of the differences between neighbours, both absolute, and a little KL; no discriminator.
"""

import argparse
import math
import random
import time

import torch

import scenes
from latents import to_tensor
from muon import Muon


def new_vae():
    from diffusers import AutoencoderKL

    channels = (16, 32, 64, 64)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, block_out_channels=channels, layers_per_block=1, latent_channels=4,
        norm_num_groups=4, sample_size=scenes.SIZE)
    vae.quant_conv.bias.data[4:] = -6.0  # nearly no noise at first
    vae.quant_conv.weight.data[4:] *= 0.1
    for name, p in vae.named_parameters():  # residual branches begin at zero: much faster
        if ("resnets" in name and "conv2" in name) or "to_out" in name:
            p.data.zero_()
    return vae


def training_picture(rng, crop, styled):
    scene = scenes.random_scene(rng, two=rng.random() < 0.8)
    picture = scenes.render(scene, rng, rng.choice(scenes.STYLES) if rng.random() < styled else None)
    if rng.random() < 0.1:
        picture = picture[..., rng.sample([0, 1, 2], 3)]
    # Styles made of tiles keep their place on the latents' grid.
    x, y = (8 * rng.randint(0, (scenes.SIZE - crop) // 8) for _ in range(2))
    return picture[y:y + crop, x:x + crop]


@torch.no_grad()
def quality(vae, pictures):
    """Mean PSNR in dB over the true size."""
    decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
    return (-10 * torch.log10((decoded - pictures).pow(2).mean((1, 2, 3)) / 4)).mean().item()


def main():
    from diffusers import AutoencoderKL

    p = argparse.ArgumentParser()
    p.add_argument("--out", required=True)
    p.add_argument("--init")
    p.add_argument("--decoder-only", action="store_true")
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--crop", type=int, default=64)
    p.add_argument("--styled", type=float, default=0.35, help="part of the pictures in an adapter's style")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--ratio", type=float, default=10.0)
    p.add_argument("--latent-noise", type=float, default=0.1,
                   help="with --decoder-only: noise on the latents, as the U-Net's are not exact either")
    p.add_argument("--kl", type=float, default=3e-4)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random(time.time_ns() if a.init else 0)
    vae = AutoencoderKL.from_pretrained(a.init).float() if a.init else new_vae()
    if a.decoder_only:
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        vae.post_quant_conv.requires_grad_(True)
    params = [q for q in vae.parameters() if q.requires_grad]
    optimizer = Muon(list(vae.named_parameters()), a.lr, a.ratio)
    test_rng = random.Random(99)
    tests = {style or "plain": to_tensor([scenes.render(scenes.random_scene(test_rng), test_rng, style)
                                          for _ in range(16 if style is None else 6)])
             for style in [None] + scenes.STYLES}
    begin, step, shown = time.time(), 0, 20.0

    def show(loss):
        vae.eval()
        print(f"{time.time() - begin:.0f} s, step {step}, loss {loss:.4f}, dB " +
              " ".join(f"{k} {quality(vae, x):.1f}" for k, x in tests.items()), flush=True)
        vae.train()

    show(float("nan"))
    while (done := (time.time() - begin) / (60 * a.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * done))
        x = to_tensor([training_picture(rng, a.crop, a.styled) for _ in range(a.batch)])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(not a.decoder_only):
                latent = vae.encode(x).latent_dist
            z = latent.sample()
            if a.decoder_only:
                z = latent.mean + a.latent_noise * torch.rand(len(x), 1, 1, 1) * torch.randn_like(latent.mean)
            y = vae.decode(z).sample
        y = y.float()
        loss = (y - x).abs().mean()
        for axis in (2, 3):
            loss = loss + 0.5 * (y.diff(dim=axis) - x.diff(dim=axis)).abs().mean()
        total = loss if a.decoder_only else loss + a.kl * latent.kl().float().mean() / latent.mean[0].numel()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        if time.time() - begin > shown:
            shown += 40
            show(loss.item())
    show(loss.item())
    vae.save_pretrained(a.out)


if __name__ == "__main__":
    main()

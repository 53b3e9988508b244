"""Trains the U-Net and the text encoder together.

v-prediction on a schedule whose last step holds no signal at all (`rescale_betas_zero_snr`): there the network has
nothing but the words to say what stands where. Noisy steps are drawn more often than clean ones and the cells of
objects count more than the background, since that is where pictures go wrong.

    python base.py --tokenizer F --layout F --latents a.pt b.pt --out F --minutes M [--processes 2]
                   [--unet F --text-encoder F] [--resume]

`--layout` is the folder layout.py wrote; `--unet` and `--text-encoder` start from earlier weights. `--out` gets
`unet/`, `text_encoder/`, `scheduler/` (the moving average of the weights) and `state.pt` (all that `--resume` needs).
"""

import argparse
import math
import os
import time
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import layout
import scenes
import vocabulary
from muon import Muon


def new_scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000,
        clip_sample=False, set_alpha_to_one=True, steps_offset=1, prediction_type="v_prediction",
        timestep_spacing="trailing", rescale_betas_zero_snr=True)


def new_unet(channels=(48, 96, 128)):
    from diffusers import UNet2DConditionModel

    n = len(channels)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=channels, layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D"] * (n - 1) + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * (n - 1),
        cross_attention_dim=layout.WIDTH, attention_head_dim=4, norm_num_groups=16)
    for name, p in unet.named_parameters():  # residual branches begin at zero
        if ("resnets" in name and "conv2" in name) or "proj_out" in name:
            p.data.zero_()
    unet.conv_out.weight.data.mul_(0.1)
    return unet


def use_plain_attention(unet):
    """Explicit softmax attention: on a CPU far faster than the fused kernel at these sizes, and in training too."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())


def draw_timesteps(count):
    """Half evenly, half with a density growing with the noise; spread over the range to keep the loss steady."""
    u = (torch.arange(count) + torch.rand(count)) / count
    even = torch.arange(count) % 2 == 0
    return (torch.where(even, u, u.sqrt()) * 1000).long().clamp(0, 999)


def object_weights(latents, extra):
    """Loss weights [N, 1, 16, 16]: 1 on the background, 1 + `extra` on objects and their rims, mean 1."""
    distance = (latents - latents[:, :, :1, :1]).pow(2).mean(1, keepdim=True).sqrt()
    weights = 1 + extra * (F.max_pool2d(distance, 3, 1, 1) > 0.25).float()
    return weights / weights.mean()


class Average:
    """Exponential moving average of parameters."""

    def __init__(self, params, decay=0.999):
        self.params, self.decay, self.steps = params, decay, 0
        self.values = [p.detach().clone() for p in params]

    @torch.no_grad()
    def update(self):
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (20 + self.steps))
        torch._foreach_lerp_(self.values, [p.data for p in self.params], 1 - decay)

    @torch.no_grad()
    def swap(self):
        for p, value in zip(self.params, self.values):
            kept = p.data.clone()
            p.data.copy_(value)
            value.copy_(kept)


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--layout", required=True)
    p.add_argument("--latents", nargs="+", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--unet")
    p.add_argument("--text-encoder")
    p.add_argument("--resume", action="store_true")
    p.add_argument("--scaling-factor", type=float, default=0.0, help="0: one over the standard deviation")
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--processes", type=int, default=2)
    p.add_argument("--batch", type=int, default=16, help="per process")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--ratio", type=float, default=10.0, help="Muon's rate over Adam's")
    p.add_argument("--text-lr", type=float, default=0.3, help="of the text encoder, as a part of --lr")
    p.add_argument("--decay-from", type=float, default=0.4, help="part of the time after which the rate falls")
    p.add_argument("--object-weight", type=float, default=2.0)
    p.add_argument("--reader-weight", type=float, default=0.1)
    p.add_argument("--save-every", type=float, default=4.0, help="minutes")
    p.add_argument("--port", type=int, default=29511)
    p.add_argument("--no-compile", action="store_true")
    return p.parse_args()


def train(rank, a):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{a.port}", rank=rank, world_size=a.processes,
                            timeout=timedelta(minutes=20))
    torch.manual_seed(1)
    tokenizer = vocabulary.load(a.tokenizer)
    text = layout.load_text_encoder(a.text_encoder or a.layout + "/text_encoder", tokenizer)
    if a.unet:
        from diffusers import UNet2DConditionModel

        unet = UNet2DConditionModel.from_pretrained(a.unet).float()
    else:
        unet = new_unet()
    use_plain_attention(unet)
    text.set_attn_implementation("eager")
    reader = layout.Reader()
    reader.load_state_dict(torch.load(a.layout + "/reader.pt"))
    modules = {"unet": unet, "text": text, "reader": reader}
    for m in modules.values():
        m.train()
    named = [(f"{k}.{n}", q) for k, m in modules.items() for n, q in m.named_parameters()]
    params = [q for _, q in named]
    adam_names = ("embedding", "conv_in.", "conv_out.", "time_emb", "reader.head")
    optimizers = {
        "unet": Muon([x for x in named if x[0].startswith("unet.")], a.lr, a.ratio, adam_names=adam_names),
        "words": Muon([x for x in named if not x[0].startswith("unet.")], a.lr, a.ratio, adam_names=adam_names)}
    average = Average(params)
    state = {"step": 0, "samples": 0, "seconds": 0.0}
    if a.resume and os.path.exists(a.out + "/state.pt"):
        saved = torch.load(a.out + "/state.pt")
        for k, m in modules.items():
            m.load_state_dict(saved[k])
        for k, o in optimizers.items():
            o.load_state_dict(saved["optimizer_" + k])
        average.values, average.steps, state = saved["average"], saved["average_steps"], saved["progress"]

    parts = [torch.load(f, weights_only=False) for f in a.latents]
    latents = torch.cat([x["latents"] for x in parts])
    what = sum((x["scenes"] for x in parts), [])
    ids = vocabulary.encode(tokenizer, map(scenes.prompt_of, what))
    # Some prompts name a style, as an adapter's trigger phrase will; it changes nothing here.
    ids_style = vocabulary.encode(tokenizer, (f"{scenes.prompt_of(s)} in {scenes.STYLES[i % 4]} style"
                                              for i, s in enumerate(what)))
    wanted = torch.cat([layout.target_batch(what[i:i + 1000]).to(torch.uint8) for i in range(0, len(what), 1000)])
    empty = vocabulary.encode(tokenizer, [""])[0]
    factor = a.scaling_factor or 1 / latents.float().std().item()
    scheduler = new_scheduler()
    alphas = scheduler.alphas_cumprod.float()
    forward = unet if a.no_compile else torch.compile(unet)
    if rank == 0:
        print(f"{sum(q.numel() for q in unet.parameters())} + {sum(q.numel() for q in text.parameters())} parameters, "
              f"{len(what)} scenes, scaling factor {factor:.4f}, from sample {state['samples']}", flush=True)

    def save():
        average.swap()
        for name, module in (("unet", unet), ("text_encoder", text), ("scheduler", scheduler)):
            module.save_pretrained(f"{a.out}/{name}")
        average.swap()
        torch.save({**{k: m.state_dict() for k, m in modules.items()},
                    **{"optimizer_" + k: o.state_dict() for k, o in optimizers.items()},
                    "average": average.values, "average_steps": average.steps, "progress": state},
                   a.out + "/state.pt.new")
        os.replace(a.out + "/state.pt.new", a.out + "/state.pt")

    torch.manual_seed(100 + rank + 7 * state["step"])
    begin, shown, saved_at, losses = time.time(), 30.0, 0.0, []
    first_samples = state["samples"]
    while True:
        now = torch.tensor([time.time() - begin])
        dist.broadcast(now, 0)
        now = now.item()
        done = now / (60 * a.minutes)
        if done >= 1:
            break
        local = state["step"]
        fall = max(0.0, (done - a.decay_from) / (1 - a.decay_from))
        lr = a.lr * min(1, (local + 1) / 100) * (0.51 + 0.49 * math.cos(math.pi * fall))
        for k, o in optimizers.items():
            for group in o.param_groups:
                group["lr"] = lr * (1 if k == "unet" else a.text_lr)

        pick = torch.randint(0, len(latents), (a.batch,))
        x0 = latents[pick].float() * factor
        drop = torch.rand(a.batch) < 0.1
        words = torch.where(torch.rand(a.batch, 1) < 0.06, ids_style[pick], ids[pick])
        words = torch.where(drop[:, None], empty, words)
        t = draw_timesteps(a.batch)
        noise = torch.randn_like(x0)
        signal, sigma = alphas[t].sqrt().view(-1, 1, 1, 1), (1 - alphas[t]).sqrt().view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            states = text(words).last_hidden_state
            guess = forward(signal * x0 + sigma * noise, t, states).sample.float()
            read = reader(states)
        error = (guess - (signal * noise - sigma * x0)).pow(2)
        loss = (object_weights(x0, a.object_weight) * error).mean()
        side = layout.reader_loss(read, wanted[pick].long(), (~drop).float())
        for o in optimizers.values():
            o.zero_grad(set_to_none=False)
        (loss + a.reader_weight * side).backward()
        flat = torch.cat([q.grad.reshape(-1) for q in params]) / a.processes
        dist.all_reduce(flat)
        for q, g in zip(params, flat.split([q.numel() for q in params])):
            q.grad.copy_(g.view_as(q))
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for o in optimizers.values():
            o.step()
        average.update()
        state["step"] += 1
        state["samples"] += a.batch * a.processes
        losses.append((loss.item(), side.item()))
        if rank == 0 and now > shown:
            shown = now + 30
            mean = np.mean(losses, 0)
            print(f"{now:.0f} s, step {state['step']}, {state['samples']} samples, "
                  f"{(state['samples'] - first_samples) / now:.1f} a second, loss {mean[0]:.4f}, reader {mean[1]:.4f}, "
                  f"rate {lr:.5f}", flush=True)
            losses = []
        if rank == 0 and now > saved_at + 60 * a.save_every:
            saved_at = now
            save()
    if rank == 0:
        state["seconds"] += time.time() - begin
        save()
        print(f"end: {state['samples']} samples in all", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main():
    a = arguments()
    os.makedirs(a.out, exist_ok=True)
    torch.multiprocessing.spawn(train, (a,), a.processes)


if __name__ == "__main__":
    main()

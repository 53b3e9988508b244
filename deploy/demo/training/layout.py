"""The text encoder's own lesson: say from the words alone what stands where.

A grid of learnt queries reads the encoder's states - exactly what the U-Net will read, padding included - and names
for each cell the colour, the shape and the size. That teaches order and relations in minutes; learnt through the
U-Net alone they take hours. The reader is thrown away afterwards (base.py keeps it as a small side loss).

    python layout.py --tokenizer FOLDER --out FOLDER [--init TEXT_ENCODER] --minutes M
"""

import argparse
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import scenes
import vocabulary
from muon import Muon

GRID = 8
WIDTH = 128
KINDS = (("colour", len(scenes.COLOUR_NAMES)), ("shape", len(scenes.SHAPES) + 1), ("size", len(scenes.SIZES) + 1))


def new_text_encoder(tokenizer, layers=3):
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=vocabulary.LENGTH, hidden_act="quick_gelu",
        projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))


def load_text_encoder(folder, tokenizer):
    """A text encoder from a folder; one with more positions than the tokenizer uses is cut to size."""
    from transformers import CLIPTextModel

    old = CLIPTextModel.from_pretrained(folder).float()
    model = new_text_encoder(tokenizer, old.config.num_hidden_layers)
    state = {k: v[:vocabulary.LENGTH] if "position_embedding" in k else v for k, v in old.state_dict().items()
             if "position_ids" not in k}
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all("position_ids" in k for k in missing.missing_keys), missing
    return model


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.query_embedding = nn.Parameter(torch.randn(GRID * GRID, WIDTH))
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, sum(n for _, n in KINDS))

    def forward(self, states):
        batch, length, _ = states.shape

        def heads(x):
            return x.reshape(x.shape[0], x.shape[1], 4, -1).transpose(1, 2)

        q = heads(self.query_embedding[None])
        k, v = heads(self.key(states)), heads(self.value(states))
        weight = (q @ k.transpose(2, 3) / math.sqrt(WIDTH // 4)).softmax(-1)
        x = self.out((weight @ v).transpose(1, 2).reshape(batch, GRID * GRID, WIDTH))
        return self.head(F.gelu(self.hidden(x)) + x).split([n for _, n in KINDS], -1)


_cells = {}


def targets(scene):
    """Three class maps [GRID * GRID]: colour, shape and size; 0 is 'nothing' for the last two."""
    maps = np.zeros((3, GRID * GRID), np.int64)
    maps[0] = scenes.COLOUR_NAMES.index(scene["background"])
    for thing, (x, y, r) in zip(scene["objects"], scenes.positions(scene)):
        key = (thing["shape"], r, x, y)
        if key not in _cells:
            cover = np.asarray(scenes.mask(*key), np.float32).reshape(GRID, 16, GRID, 16).mean((1, 3)) / 255
            _cells[key] = (cover > 0.25).reshape(-1)
        cells = _cells[key]
        maps[0, cells] = scenes.COLOUR_NAMES.index(thing["colour"])
        maps[1, cells] = 1 + scenes.SHAPES.index(thing["shape"])
        maps[2, cells] = 1 + scenes.SIZES.index(thing["size"])
    return maps


def target_batch(batch):
    return torch.from_numpy(np.stack([targets(s) for s in batch]))


def reader_loss(outputs, wanted, weights=None):
    """Mean cross-entropy; cells of objects count four times."""
    cell = 1 + 3 * (wanted[:, 1] > 0).float()
    if weights is not None:
        cell = cell * weights[:, None]
    return sum((F.cross_entropy(o.float().transpose(1, 2), wanted[:, i], reduction="none") * cell).sum() / cell.sum()
               for i, o in enumerate(outputs))


@torch.no_grad()
def accuracy(model, reader, tokenizer, held_out):
    """Share of held-out scenes with every cell of an object right, for one and for two objects."""
    wanted = target_batch(held_out)
    got = reader(model(vocabulary.encode(tokenizer, map(scenes.prompt_of, held_out))).last_hidden_state)
    things = wanted[:, 1] > 0
    wrong = torch.stack([(o.argmax(-1) != wanted[:, i]) & things for i, o in enumerate(got)])
    cells = 1 - wrong.any(0).sum().item() / things.sum().item()
    whole = ~wrong.any(0).any(1)
    return [whole[0::2].float().mean().item(), whole[1::2].float().mean().item(), cells]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--init")
    p.add_argument("--layers", type=int, default=3)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=2e-3)
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    rng = random.Random(5)
    tokenizer = vocabulary.load(a.tokenizer)
    model = load_text_encoder(a.init, tokenizer) if a.init else new_text_encoder(tokenizer, a.layers)
    reader = Reader()
    named = list(model.named_parameters()) + list(reader.named_parameters())
    optimizer = Muon(named, lr=a.lr, ratio=10, adam_names=("embedding", "head"))
    held_out = scenes.held_out_scenes(256, seed=4242)
    begin, step, shown, losses = time.time(), 0, 0, []
    while (done := (time.time() - begin) / (60 * a.minutes)) < 1:
        fall = max(0.0, (done - 0.4) / 0.6)
        lr = a.lr * min(1, (step + 1) / 50) * (0.52 + 0.48 * math.cos(math.pi * fall))
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = [scenes.training_scene(rng, two=rng.random() < 0.75) for _ in range(a.batch)]
        ids = vocabulary.encode(tokenizer, (scenes.prompt_of(s) + scenes.style_words(rng) for s in batch))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = reader(model(ids).last_hidden_state)
        loss = reader_loss(outputs, target_batch(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([q for _, q in named], 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if time.time() - begin > shown:
            shown += 20
            one, two, cells = accuracy(model, reader, tokenizer, held_out)
            print(f"{time.time() - begin:.0f} s, step {step}, {step * a.batch} prompts, "
                  f"loss {np.mean(losses):.4f}, held out: one "
                  f"{100 * one:.0f} %, two {100 * two:.0f} %, cells {100 * cells:.1f} %", flush=True)
            losses = []
    os.makedirs(a.out, exist_ok=True)
    model.save_pretrained(a.out + "/text_encoder")
    torch.save(reader.state_dict(), a.out + "/reader.pt")


if __name__ == "__main__":
    main()

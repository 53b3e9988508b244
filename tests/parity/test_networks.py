"""Tokens, noise, text embedding, one U-Net step, VAE decode."""

import pytest
import torch

from probe import adapters_of

PROMPTS = [
    "",
    "a photo of a cat",
    "A PAINTING of the big  blue star on a small green square,\n(night:1.3)!",
    "un château brûlé, 猫 とても小さい, 👩‍🎨 and Ωμέγα № ①",
    "it's don't we'll 12345 !!! <|endoftext|> a dog",
    "a detailed colour photo of the bright castle with an ocean " * 9,
]


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    actual, expected = actual.double(), expected.double()
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_tokens_are_equal(probe, model):
    tokenizer = model.pipeline.tokenizer
    expected = tokenizer(PROMPTS, padding="max_length", truncation=True,
                         max_length=tokenizer.model_max_length).input_ids
    assert probe.call("tokens", model=model.folder, texts=PROMPTS) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 + 5, 2**64 - 1])
@pytest.mark.parametrize("shape", [(1, 4, 1, 3), (1, 4, 8, 8), (1, 4, 9, 13)])
def test_noise_is_torchs(probe, model, seed, shape):
    expected = torch.randn(
        shape, generator=torch.Generator("cpu").manual_seed(seed))
    actual = probe.tensors("noise", scheduler=model.scheduler_path, seed=seed,
                           shape=shape)["noise"]
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("set_name", ["base", "mixed"])
def test_text_embedding(probe, model, measure, prompt, set_name):
    members = model.adapter_sets()[set_name]
    actual = probe.tensors("text_embedding", model=model.folder, text=prompt,
                           adapters=adapters_of(members))
    measure(f"{model.name}: text embedding, {set_name}, relative",
            relative(actual["embedding"],
                     model.text_embedding(prompt, members)), 1e-4)


# Latent sizes: a multiple of every level's, and odd ones.
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (6, 17), (2, 5)])
@pytest.mark.parametrize("timestep", [0, 1, 500, 333.25, 999])
@pytest.mark.parametrize("set_name", ["base", "mixed"])
def test_unet_step(probe, model, measure, size, timestep, set_name):
    members = model.adapter_sets()[set_name]
    sample = noise(2, 4, *size)
    text = torch.cat([model.text_embedding(p) for p in PROMPTS[1:3]])
    actual = probe.tensors("unet_step", {"sample": sample, "text": text},
                           model=model.folder, timestep=timestep,
                           adapters=adapters_of(members))
    measure(f"{model.name}: U-Net step, {set_name}, relative",
            relative(actual["sample"],
                     model.unet_step(sample, timestep, text, members)), 1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_unet_step_in_16_bits(probe, model, measure, dtype):
    sample = noise(2, 4, 8, 8)
    text = torch.cat([model.text_embedding(p) for p in PROMPTS[1:3]])
    actual = probe.tensors("unet_step", {"sample": sample, "text": text},
                           model=model.folder, timestep=500, dtype=dtype)
    assert actual["sample"].dtype == getattr(torch, dtype)
    measure(f"{model.name}: U-Net step in {dtype}, relative",
            relative(actual["sample"], model.unet_step(sample, 500, text)),
            0.1 if dtype == "bfloat16" else 0.02)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 1)])
def test_vae_decode(probe, model, measure, size):
    latents = noise(1, 4, *size)
    actual = probe.tensors("vae_decode", {"latents": latents},
                           model=model.folder)
    measure(f"{model.name}: VAE decode, relative",
            relative(actual["image"], model.vae_decode(latents)), 1e-4)

"""Compares one model of Stable Diffusion 1.5's size with the reference: text
embedding, one U-Net step at 512 px with guidance, VAE decode. By hand, as it
needs 4 GB on disk and 8 GB of memory:

  full_size.py ENGINE_PROBE FOLDER [--dtype float16]

FOLDER is made, with random weights in that dtype, unless it is there.
"""

import argparse
import dataclasses
import gc
import pathlib
import tempfile
import time

import torch

import reference_models
from probe import Probe
from reference import ReferenceModel
from test_networks import noise, relative

PROMPT = "a painting of a big blue star on a small green square"
BOUND = 1e-4


def timed(what: str, compute):
    start = time.monotonic()
    result = compute()
    print(f"  {what}: {time.monotonic() - start:.1f} s", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("engine_probe")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", default="float32",
                        choices=["float32", "float16", "bfloat16"])
    arguments = parser.parse_args()
    folder = arguments.folder
    if not (folder / "model_index.json").exists():
        reference_models.write_model(folder, dataclasses.replace(
            reference_models.FULL, dtype=getattr(torch, arguments.dtype)))

    sample, latents = noise(2, 4, 64, 64), noise(1, 4, 32, 32)
    print("reference")
    reference = ReferenceModel(folder)
    text = timed("text", lambda: reference.text_embedding(PROMPT))
    context = torch.cat([reference.text_embedding(""), text])
    expected = {
        "text embedding": text,
        "U-Net step": timed(
            "U-Net", lambda: reference.unet_step(sample, 500, context)),
        "VAE decode": timed("VAE", lambda: reference.vae_decode(latents)),
    }
    # One after the other: both together would need twice the memory.
    del reference
    gc.collect()

    print("engine (the first job loads the model)")
    with tempfile.TemporaryDirectory() as scratch:
        probe = Probe(arguments.engine_probe, pathlib.Path(scratch),
                      threads=torch.get_num_threads())
        actual = {
            "text embedding": timed("text", lambda: probe.tensors(
                "text_embedding", model=folder, text=PROMPT)["embedding"]),
            "U-Net step": timed("U-Net", lambda: probe.tensors(
                "unet_step", {"sample": sample, "text": context},
                model=folder, timestep=500)["sample"]),
            "VAE decode": timed("VAE", lambda: probe.tensors(
                "vae_decode", {"latents": latents}, model=folder)["image"]),
        }
        probe.close()

    for name, tensor in expected.items():
        difference = relative(actual[name], tensor)
        print(f"{name}: largest difference {difference:.2g} of the largest "
              f"value {tensor.abs().max():.3g}, bound {BOUND:.0e}")
        assert difference <= BOUND, name


if __name__ == "__main__":
    main()

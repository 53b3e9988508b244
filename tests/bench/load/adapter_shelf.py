"""Many adapters, made of a few."""

import pathlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_NOISE = 0.1  # of a factor's own spread


def fill_shelf(originals: pathlib.Path, shelf: pathlib.Path, count: int
               ) -> list[str]:
    """Writes `count` adapters into `shelf`: the folder's files in turn, with
    a little noise on their factors so that no two merge the same weights.
    Returns their names."""
    sources = sorted(originals.glob("*.safetensors"))
    names = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        with safe_open(sources[index % len(sources)], "pt") as file:
            for key in file.keys():
                tensor = file.get_tensor(key)
                if tensor.ndim >= 2:  # not alpha
                    noise = torch.randn(tensor.shape, generator=generator)
                    tensor = tensor + (_NOISE * tensor.float().std() *
                                       noise).to(tensor.dtype)
                tensors[key] = tensor
            metadata = file.metadata()
        names.append(f"style{index:03d}")
        save_file(tensors, shelf / f"{names[-1]}.safetensors", metadata)
    return names

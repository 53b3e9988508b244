"""The reference's way of switching: PEFT's fuse of resident adapters."""

import pathlib

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file


class PeftUnet:
    """A U-Net with adapters in memory, of which one at a time is fused."""

    def __init__(self, folder: pathlib.Path, dtype: torch.dtype):
        self.unet = UNet2DConditionModel.from_pretrained(folder, dtype=dtype)
        self._fused = False

    def load(self, path: pathlib.Path) -> None:
        self.unet.load_lora_adapter(load_file(path), prefix="unet",
                                    adapter_name=path.stem)

    def unload(self, adapter: str) -> None:
        self.unfuse()
        self.unet.delete_adapters(adapter)

    def unfuse(self) -> None:
        if self._fused:
            self.unet.unfuse_lora()
            self._fused = False

    def fuse(self, adapter: str, strength: float = 1.0) -> None:
        self.unfuse()
        self.unet.set_adapters([adapter], [strength])
        self.unet.fuse_lora(adapter_names=[adapter])
        self._fused = True

    def weights(self) -> dict[str, torch.Tensor]:
        """As they are now, by the names of the U-Net without adapters."""
        return {name.replace(".base_layer", ""): tensor
                for name, tensor in self.unet.state_dict().items()
                if ".lora_" not in name}

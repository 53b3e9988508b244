"""How long PEFT takes on a GPU to go from one resident LoRA to another (unfuse,
fuse): the peer of switch_bench's rows.

  peft_switch.py DEVICE sd15|sdxl [RANK...]
"""

import statistics
import sys
import time

import torch
from diffusers import UNet2DConditionModel

SWITCHES, WARM_UPS = 10, 2
RANKS = (4, 16, 32, 128)
# The suffixes of the modules that an adapter changes.
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TARGET_SETS = {
    "attention": ATTENTION,
    "transformers": ATTENTION + ("proj_in", "proj_out", "ff.net.0.proj",
                                 "ff.net.2"),
    "locon": ATTENTION + ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
                          "conv1", "conv2", "conv_shortcut", "time_emb_proj",
                          "downsamplers.0.conv", "upsamplers.0.conv")}
CONFIGS = {
    "sd15": dict(cross_attention_dim=768),
    "sdxl": dict(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D",
                          "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                        "UpBlock2D"),
        attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True)}


def random_lora(unet: torch.nn.Module, suffixes: tuple[str, ...],
                rank: int) -> dict[str, torch.Tensor]:
    state = {}
    for name, module in unet.named_modules():
        if not name.endswith(suffixes) or not hasattr(module, "weight"):
            continue
        out, *rest = module.weight.shape
        down = torch.randn(rank, *rest) / 10
        up = torch.randn(out, rank, *[1] * (len(rest) - 1)) / 10
        state[f"unet.{name}.lora_A.weight"] = down
        state[f"unet.{name}.lora_B.weight"] = up
    return state


def switch_time(unet: UNet2DConditionModel, device: torch.device) -> float:
    times = []
    for i in range(WARM_UPS + SWITCHES):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        unet.unfuse_lora()
        unet.set_adapters([f"adapter{i % 2}"])
        unet.fuse_lora(adapter_names=[f"adapter{i % 2}"])
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UPS:])


def main() -> None:
    device, model = torch.device(sys.argv[1]), sys.argv[2]
    ranks = tuple(int(rank) for rank in sys.argv[3:]) or RANKS
    unet = UNet2DConditionModel.from_config(
        {"_class_name": "UNet2DConditionModel", **CONFIGS[model]}
    ).to(device, torch.float16)
    for target_set, suffixes in TARGET_SETS.items():
        for rank in ranks:
            plain = random_lora(unet, suffixes, rank)
            for i in range(2):
                unet.load_lora_adapter(plain, prefix="unet",
                                       adapter_name=f"adapter{i}")
            unet.to(device, torch.float16)
            unet.set_adapters(["adapter0"])
            unet.fuse_lora(adapter_names=["adapter0"])
            seconds = switch_time(unet, device)
            print(f"PEFT {target_set:13} {rank:4}  {seconds * 1e3:9.3f} ms",
                  flush=True)
            unet.unfuse_lora()
            unet.unload_lora()


if __name__ == "__main__":
    main()

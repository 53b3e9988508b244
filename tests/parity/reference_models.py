"""Random-weight Stable Diffusion folders, written by the reference itself.

  reference_models.py FOLDER              the small architectures of the tests
  reference_models.py FOLDER --full [--dtype float16]
                                          the shape of Stable Diffusion 1.5

The architectures differ in everything that a config.json can say and the engine
supports, and in how their files are written. The weights are scaled so that
prediction and pixels have their usual spread: a random model that draws
contrasts shows differences; one that draws grey hides them.
"""

import argparse
import dataclasses
import json
import math
import pathlib

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

START, END = "<|startoftext|>", "<|endoftext|>"
# What the tokenizer's merges are made from; other words fall into letters.
KNOWN_WORDS = ("a an and the of on in at with photo painting cat dog small big "
               "blue red green star square circle background style night "
               "castle ocean bright colour detailed ugly blurry").split()

# The scheduler config that Stable Diffusion 1.5 was published with.
SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The three configs and how the folder is written."""
    unet: dict
    vae: dict
    text: dict
    scheduler: dict
    max_length: int = 77           # of the tokenizer
    dtype: torch.dtype = torch.float32
    shard_size: str = "10GB"       # of the U-Net's files
    gain: float = 1.0              # small: what norms add to a variance matters
    old_names: bool = False        # as folders of 2022 name their tensors


ARCHITECTURES = {
    # Stable Diffusion 1.x in small: four levels, 1x1 convolutions around the
    # transformer blocks, quick_gelu, factor 8; the tensor names of its time.
    "sd1": Architecture(
        unet=dict(
            block_out_channels=(16, 24, 32, 32), layers_per_block=2,
            attention_head_dim=4, cross_attention_dim=24, norm_num_groups=8,
            sample_size=8),
        vae=dict(block_out_channels=(16, 16, 24, 32), layers_per_block=2,
                 norm_num_groups=8, scaling_factor=0.18215),
        text=dict(hidden_size=24, intermediate_size=80, num_hidden_layers=3,
                  num_attention_heads=4, hidden_act="quick_gelu"),
        scheduler=SD15_SCHEDULER,
        old_names=True),
    # Stable Diffusion 2.x in small: heads per level, linear projections,
    # attention in float32, gelu, v-prediction with zero terminal SNR; deeper
    # transformers at one level, bfloat16 on disk, in shards.
    "sd2": Architecture(
        unet=dict(
            block_out_channels=(24, 36, 48), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D",
                              "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D",
                            "CrossAttnUpBlock2D"),
            attention_head_dim=(2, 3, 6), cross_attention_dim=40,
            transformer_layers_per_block=(1, 2, 1), norm_num_groups=6,
            use_linear_projection=True, upcast_attention=True, sample_size=16),
        vae=dict(block_out_channels=(12, 24, 24), layers_per_block=1,
                 norm_num_groups=4, scaling_factor=0.25),
        text=dict(hidden_size=40, intermediate_size=64, num_hidden_layers=2,
                  num_attention_heads=5, hidden_act="gelu"),
        scheduler={
            "_class_name": "DDIMScheduler", "beta_start": 0.00085,
            "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
            "prediction_type": "v_prediction", "timestep_spacing": "trailing",
            "rescale_betas_zero_snr": True},
        dtype=torch.bfloat16, shard_size="400KB"),
    # What neither has: an odd width, layers per level, attention at the bottom
    # only, asymmetric padding, sine before cosine, a centred sample; a VAE of
    # two levels without attention; a short text; float16 on disk; values so
    # small that the norms' epsilons matter.
    "odd": Architecture(
        unet=dict(
            block_out_channels=(15, 30), layers_per_block=(1, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=5, cross_attention_dim=20, norm_num_groups=5,
            norm_eps=1e-6, downsample_padding=0, flip_sin_to_cos=False,
            freq_shift=1, center_input_sample=True, sample_size=32),
        vae=dict(block_out_channels=(8, 16), layers_per_block=1,
                 norm_num_groups=2, mid_block_add_attention=False,
                 use_post_quant_conv=False, use_quant_conv=False,
                 scaling_factor=0.4),
        text=dict(hidden_size=20, intermediate_size=48, num_hidden_layers=1,
                  num_attention_heads=2, hidden_act="quick_gelu",
                  layer_norm_eps=1e-6, max_position_embeddings=32),
        # Less noise and a wider clip than usual: a clipped prediction at high
        # noise is nearly a sign, which makes any rounding visible (between the
        # reference merged and unmerged, too).
        scheduler={
            "_class_name": "EulerDiscreteScheduler", "beta_start": 0.0001,
            "beta_end": 0.008, "beta_schedule": "linear", "clip_sample": True,
            "clip_sample_range": 4.0, "set_alpha_to_one": True,
            "timestep_spacing": "linspace"},
        max_length=24, dtype=torch.float16, gain=0.05),
}

FULL = Architecture(
    unet=dict(
        block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
        attention_head_dim=8, cross_attention_dim=768, sample_size=64),
    vae=dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2,
             scaling_factor=0.18215),
    text=dict(vocab_size=49408, hidden_size=768, intermediate_size=3072,
              num_hidden_layers=12, num_attention_heads=12,
              hidden_act="quick_gelu"),
    scheduler=SD15_SCHEDULER)


# ---- Weights ----------------------------------------------------------------

# Layers that no norm follows.
INNER = ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj", "fc1",
         "net.0.proj", "time_embedding")


def randomize(model: torch.nn.Module, gain: float,
              generator: torch.Generator) -> None:
    """Gives each parameter random values of its role's usual size, times `gain`
    where they make the activations that norms see."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name:
            value = (1.0 if name.endswith("weight") else 0.0) + 0.2 * noise
        elif parameter.ndim == 1:
            value = 0.2 * gain * noise
        elif name.endswith(("position_embedding.weight",
                            "token_embedding.weight")):
            value = 0.7 * gain * noise
        else:
            value = noise / math.sqrt(parameter[0].numel())
            if not any(part in name for part in INNER):
                value *= gain
        parameter.data.copy_(value)


def make_networks(architecture: Architecture, seed: int):
    generator = torch.Generator().manual_seed(seed)
    vae_levels = len(architecture.vae["block_out_channels"])
    unet = UNet2DConditionModel(**architecture.unet)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * vae_levels,
        up_block_types=("UpDecoderBlock2D",) * vae_levels,
        latent_channels=4, **architecture.vae)
    vocabulary = make_vocabulary()[0]
    text_encoder = CLIPTextModel(CLIPTextConfig(
        **{"vocab_size": len(vocabulary), "max_position_embeddings": 77,
           "bos_token_id": vocabulary[START], "eos_token_id": vocabulary[END],
           "pad_token_id": vocabulary[END], **architecture.text}))
    for network in (unet, vae, text_encoder):
        randomize(network, architecture.gain, generator)
    # After the norm and silu before it: a prediction of about unit size, and
    # pixels of which few are clipped.
    unet.conv_out.weight.data *= 1.7 / architecture.gain
    vae.decoder.conv_out.weight.data *= 0.7 / architecture.gain
    for network in (unet, vae, text_encoder):
        network.to(architecture.dtype)
    return unet, vae, text_encoder


OLD_ATTENTION_NAMES = {".to_q.": ".query.", ".to_k.": ".key.",
                       ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def use_old_names(folder: pathlib.Path) -> None:
    """Renames tensors to what folders of 2022 hold: a level "text_model." with
    the numbers of its positions, and the old names in the VAE's attention."""
    path = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{key.removeprefix('text_model.')}": tensor
               for key, tensor in load_file(path).items()}
    rows = tensors["text_model.embeddings.position_embedding.weight"].shape[0]
    tensors["text_model.embeddings.position_ids"] = torch.arange(rows)[None]
    save_file(tensors, path, {"format": "pt"})

    path = folder / "vae/diffusion_pytorch_model.safetensors"
    tensors = {}
    for key, tensor in load_file(path).items():
        if ".attentions." in key:
            for new, old in OLD_ATTENTION_NAMES.items():
                key = key.replace(new, old)
        tensors[key] = tensor
    save_file(tensors, path, {"format": "pt"})


# ---- Tokenizer --------------------------------------------------------------

def byte_alphabet() -> list[str]:
    """The characters that stand for bytes 0 to 255, as in GPT-2's tokenizer."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(others)) for b in range(256)]


def make_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Bytes, bytes that end a word, and merges that build KNOWN_WORDS."""
    merges = []
    for word in KNOWN_WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if tuple(parts[:2]) not in merges:
                merges.append(tuple(parts[:2]))
            parts[:2] = ["".join(parts[:2])]
    alphabet = byte_alphabet()
    tokens = alphabet + [c + "</w>" for c in alphabet]
    tokens += dict.fromkeys("".join(merge) for merge in merges)
    tokens += [START, END]
    return {token: i for i, token in enumerate(tokens)}, merges


def write_tokenizer(folder: pathlib.Path, max_length: int) -> None:
    vocabulary, merges = make_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
        encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "CLIPTokenizer", "model_max_length": max_length,
        "bos_token": START, "eos_token": END, "pad_token": END,
        "unk_token": END}))


# ---- Folders ----------------------------------------------------------------

def write_model(folder: pathlib.Path, architecture: Architecture,
                seed: int = 1) -> pathlib.Path:
    """Writes a folder that StableDiffusionPipeline.from_pretrained reads."""
    unet, vae, text_encoder = make_networks(architecture, seed)
    unet.save_pretrained(folder / "unet",
                         max_shard_size=architecture.shard_size)
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    if architecture.old_names:
        use_old_names(folder)
    write_tokenizer(folder / "tokenizer", architecture.max_length)
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(
        json.dumps(architecture.scheduler, indent=2))
    (folder / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", architecture.scheduler["_class_name"]],
        "safety_checker": [None, None], "feature_extractor": [None, None],
        "requires_safety_checker": False}, indent=2))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"],
                        default="float32", help="on disk, of --full")
    arguments = parser.parse_args()
    if arguments.full:
        write_model(arguments.folder, dataclasses.replace(
            FULL, dtype=getattr(torch, arguments.dtype)))
        return
    for name, architecture in ARCHITECTURES.items():
        write_model(arguments.folder / name, architecture)


if __name__ == "__main__":
    main()

"""The reference's side: diffusers pipelines and schedulers, peft's adapters."""

import json
import pathlib
from collections.abc import Sequence

import numpy
import torch
from diffusers import (DDIMScheduler, DPMSolverMultistepScheduler,
                       EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
                       StableDiffusionPipeline)
from diffusers.utils.peft_utils import set_weights_and_activate_adapters

from reference_adapters import (Adapter, any_alpha, canonical, no_alpha,
                                readable_alpha, varied_configs, write_kohya,
                                write_peft)

SAMPLERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
}

# By architecture: dtype and alphas of the kohya files, scaling of the PEFT one.
ADAPTERS = {
    "sd1": (torch.float16, readable_alpha, False),
    "sd2": (torch.float32, readable_alpha, True),
    "odd": (torch.bfloat16, no_alpha, False),
}

# Adapter, weight in the U-Net, weight in the text encoder.
Weighted = tuple[Adapter, float, float]


class ReferenceModel:
    """One model folder in the reference."""

    def __init__(self, folder: pathlib.Path):
        self.name = folder.name
        self.folder = folder
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.scheduler_path = folder / "scheduler/scheduler_config.json"
        self._loaded: set[str] = set()

    def _use(self, members: Sequence[Weighted]) -> None:
        """Through the reference's own loader; unmerged."""
        for adapter, _, _ in members:
            if adapter.name not in self._loaded:
                self.pipeline.load_lora_weights(
                    adapter.path.parent, weight_name=adapter.path.name,
                    adapter_name=adapter.name)
                self._loaded.add(adapter.name)
        if members:
            self.pipeline.enable_lora()
            names = [adapter.name for adapter, _, _ in members]
            unet = [weight for _, weight, _ in members]
            text_encoder = [weight for _, _, weight in members]
            if isinstance(self.pipeline.unet.config.layers_per_block, int):
                self.pipeline.set_adapters(
                    names, [{"unet": u, "text_encoder": t}
                            for u, t in zip(unet, text_encoder)])
            else:  # It cannot take a list there. This is what it comes to:
                set_weights_and_activate_adapters(
                    self.pipeline.unet, names, unet)
                set_weights_and_activate_adapters(
                    self.pipeline.text_encoder, names, text_encoder)
        elif self._loaded:
            self.pipeline.disable_lora()

    @torch.no_grad()
    def image(self, params: dict, members: Sequence[Weighted] = ()
              ) -> numpy.ndarray:
        self._use(members)
        # After construction, which rewrites the config of the model's own.
        self.pipeline.scheduler = make_scheduler(
            params["sampler"], json.loads(self.scheduler_path.read_text()))
        return numpy.array(self.pipeline(
            params["prompt"], negative_prompt=params["negative_prompt"],
            width=params["width"], height=params["height"],
            num_inference_steps=params["steps"],
            guidance_scale=params["guidance_scale"],
            generator=torch.Generator("cpu").manual_seed(params["seed"]),
        ).images[0])

    @torch.no_grad()
    def text_embedding(self, text: str, members: Sequence[Weighted] = ()
                       ) -> torch.Tensor:
        self._use(members)
        tokenizer = self.pipeline.tokenizer
        ids = tokenizer(text, padding="max_length", truncation=True,
                        max_length=tokenizer.model_max_length,
                        return_tensors="pt").input_ids
        return self.pipeline.text_encoder(ids)[0]

    @torch.no_grad()
    def unet_step(self, sample: torch.Tensor, timestep: float,
                  text: torch.Tensor, members: Sequence[Weighted] = ()
                  ) -> torch.Tensor:
        self._use(members)
        return self.pipeline.unet(sample, torch.tensor(timestep), text).sample

    @torch.no_grad()
    def vae_decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        return vae.decode(latents / vae.config.scaling_factor).sample


class AdaptedModel(ReferenceModel):
    """One of the tests' architectures with adapters, made beside it."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        # Now: the loader renames what it wraps.
        self.base_weights = {
            name: tensor.clone()
            for name, tensor in network_weights(self.pipeline).items()}
        dtype, alpha_of, rslora = ADAPTERS[self.name]
        self.kohya = write_kohya(self.pipeline, "kohya", folder, dtype,
                                 alpha_of, seed=1)
        self.wild = write_kohya(self.pipeline, "wild", folder, dtype,
                                any_alpha, seed=2)
        self.peft = write_peft(self.pipeline, "peft", folder, 3,
                               varied_configs(rslora))

    def adapter_sets(self) -> dict[str, list[Weighted]]:
        return {
            "base": [],
            "kohya": [(self.kohya, 0.8, 0.8)],
            "peft": [(self.peft, 1.2, -0.7)],
            "mixed": [(self.kohya, 0.6, 0.9), (self.peft, 0.7, 0.5)],
        }


@torch.no_grad()
def fused_weights(folder: pathlib.Path, dtype: torch.dtype, adapter: Adapter,
                  strength: float) -> dict[str, torch.Tensor]:
    """What the reference's own merge makes of the weights."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype)
    pipeline.load_lora_weights(adapter.path.parent,
                               weight_name=adapter.path.name)
    components = ["unet"]
    if hasattr(pipeline.text_encoder, "peft_config"):
        components.append("text_encoder")
    pipeline.fuse_lora(components, lora_scale=strength)
    pipeline.unload_lora_weights()
    return network_weights(pipeline)


def network_weights(pipeline) -> dict[str, torch.Tensor]:
    """Of U-Net and text encoder, by canonical parameter name."""
    return {canonical(component, parameter): tensor
            for component in ("unet", "text_encoder")
            for parameter, tensor
            in getattr(pipeline, component).state_dict().items()}


def make_scheduler(sampler: str, config: dict):
    return SAMPLERS[sampler].from_config(config)


def run_scheduler(scheduler, steps: int, noise: torch.Tensor) -> torch.Tensor:
    """The final latents; engine_probe.cc's RunSampler does the same."""
    scheduler.set_timesteps(steps)
    generator = torch.Generator("cpu").manual_seed(0)
    latents = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = torch.sin(
            scheduler.scale_model_input(latents, t) + 0.01 * float(t))
        latents = scheduler.step(output, t, latents, generator=generator,
                                 return_dict=False)[0]
    return latents

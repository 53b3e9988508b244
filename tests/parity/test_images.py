"""Whole images: every sampler, with and without adapters, against the pipeline
with load_lora_weights."""

import itertools

import numpy
import pytest

from probe import adapters_of
from reference import SAMPLERS

STEPS = [1, 2, 7, 20]
SETS = ["base", "kohya", "peft", "mixed"]
PROMPTS = ["a photo of a small blue cat", "castle on the ocean, night, 8k", ""]
# The second leaves an odd size at some level.
SIZES = [(64, 64), (72, 104)]


def probe_image(probe, model, params, members):
    return probe.tensors("image", model=model.folder, params=params,
                         adapters=adapters_of(members))["rgb"].numpy()


def mean_difference(a: numpy.ndarray, b: numpy.ndarray) -> float:
    assert a.shape == b.shape
    return float(numpy.abs(a.astype(int) - b.astype(int)).mean())


def cases():
    """A square of samplers and step counts. Each sampler meets each adapter set
    and both guidances, and so does each step count."""
    for (i, sampler), (j, steps) in itertools.product(
            enumerate(SAMPLERS), enumerate(STEPS)):
        yield pytest.param(
            {"sampler": sampler, "steps": steps,
             "guidance_scale": [1.0, 5.0][(i + j // 2) % 2],
             "prompt": PROMPTS[(i + j) % 3],
             "negative_prompt": ["", "ugly blurry"][j % 2],
             "width": SIZES[j % 2][0], "height": SIZES[j % 2][1],
             "seed": 4 * i + j},
            SETS[(i + j) % 4], id=f"{sampler}-{steps}-{SETS[(i + j) % 4]}")


@pytest.mark.parametrize("params,set_name", cases())
def test_image(probe, model, measure, params, set_name):
    members = model.adapter_sets()[set_name]
    expected = model.image(params, members)
    assert expected.std() > 15, "a flat picture hides differences"

    actual = probe_image(probe, model, params, members)

    measure(f"{model.name}: image, {params['sampler']}, 8-bit mean",
            mean_difference(actual, expected), 0.5)


@pytest.mark.parametrize("set_name", SETS[1:])
def test_adapters_change_the_image(model, set_name):
    params = {"sampler": "ddim", "steps": 7, "guidance_scale": 3.0,
              "prompt": PROMPTS[0], "negative_prompt": "", "width": 64,
              "height": 64, "seed": 5}
    images = [model.image(params, members)
              for members in ([], model.adapter_sets()[set_name])]
    assert mean_difference(*images) > 5


@pytest.mark.parametrize("param,value", [
    ("prompt", "a painting of a big dog"), ("negative_prompt", "a castle"),
    ("seed", 6), ("guidance_scale", 1.0), ("steps", 8), ("sampler", "euler_a")])
def test_every_parameter_changes_the_image(probe, model, param, value):
    params = {"sampler": "ddim", "steps": 7, "guidance_scale": 5.0,
              "prompt": PROMPTS[0], "negative_prompt": "", "width": 64,
              "height": 64, "seed": 5}
    images = [probe_image(probe, model, p, [])
              for p in (params, params | {param: value})]
    assert mean_difference(*images) > 1

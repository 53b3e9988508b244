"""Merged weights of every algorithm and container: against the formulas in
float64, and against each format's own implementation."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

import reference_models
from layouts import LAYOUTS, write_layout
from lycoris_adapters import KINDS, write_lycoris
from merges import (DTYPES, MergeProbe, bound, difference, exact_merge, unit)
from reference import fused_weights
from reference_adapters import (TEXT_TARGETS, UNET_TARGETS, Adapter,
                                varied_configs, write_peft, write_peft_folder)
from trainers import TRAINERS, write_trainer


def file_dtype(model, number: int) -> torch.dtype:
    """Over the models, file number N is written in each dtype."""
    models = list(reference_models.ARCHITECTURES)
    return list(DTYPES.values())[(number + models.index(model.name)) % 3]


def skip_without_original_names(layout, model):
    if layout.original and not isinstance(
            model.pipeline.unet.config.layers_per_block, int):
        pytest.skip("the original code has no such U-Net")


@pytest.fixture(scope="session")
def engines(probe, model):
    return {dtype: MergeProbe(probe, model, dtype) for dtype in DTYPES}


@pytest.fixture
def check(engines, measure):
    """check(what, members): merges them in every dtype and compares the result
    with the exact one. Beside it the error of `reference`, which makes another
    implementation's weights in a dtype, in `reference_dtypes`: it takes longer
    than all the rest. Returns the merged weights, by dtype."""
    def check_merge(what, members, relative=False, reference=None,
                    reference_dtypes=("float32",)):
        merged = {}
        for dtype, engine in engines.items():
            exact = exact_merge(engine.base, members)
            assert exact, "nothing is adapted"
            merged[dtype] = engine.merged(members)
            theirs = None
            if reference and dtype in reference_dtypes:
                theirs = difference(reference(DTYPES[dtype]), exact, relative)
            measure(f"{what}, {dtype}, {unit(dtype, relative)}",
                    difference(merged[dtype], exact, relative),
                    bound(dtype, relative), theirs)
        return merged
    return check_merge


# ---- Every algorithm, beside LyCORIS ----------------------------------------

def lycoris_adapter(model, kind, folder):
    number = list(KINDS).index(kind)
    return write_lycoris(model.pipeline, kind, folder,
                         file_dtype(model, number), seed=number)


def beside_lycoris(merged, written, kind, strengths) -> float:
    """The largest difference where its forward pass means the same."""
    largest = 0.0
    for component, strength in zip(("unet", "text_encoder"), strengths):
        if strength not in kind.strengths:
            continue
        for name, weight in written.merged(component, strength).items():
            error = (merged[name] - weight).abs().max()
            largest = max(largest, float(
                error / weight.abs().max() if kind.relative else error))
    return largest


@pytest.mark.parametrize("kind", KINDS)
def test_algorithm(model, measure, check, tmp_path, kind):
    written = lycoris_adapter(model, kind, tmp_path)
    first = KINDS[kind][0]
    for strengths in [(1.0, 0.75), (0.75, 1.0)]:
        merged = check(kind, [(written.adapter, *strengths)], first.relative)
        measure(f"{kind}, beside LyCORIS, {unit('float32', first.relative)}",
                beside_lycoris(merged["float32"], written, first, strengths),
                bound("float32", first.relative))


def test_rotation_in_kohyas_names(model, check, tmp_path):
    adapter = lycoris_adapter(model, "OFT", tmp_path).adapter
    path = tmp_path / "oft.safetensors"
    save_file({key.replace("lora_unet_", "oft_unet_"): tensor
               for key, tensor in load_file(adapter.path).items()
               if key.startswith("lora_unet_")}, path)
    changes = {name: change for name, change in adapter.changes.items()
               if name.startswith("unet.")}
    check("OFT in kohya's names", [(Adapter("oft", path, changes), 0.75, 1.0)],
          relative=True)


@pytest.mark.parametrize("name", TRAINERS)
def test_trainers_layout(model, check, tmp_path, name):
    trainer = TRAINERS[name]
    skip_without_original_names(trainer, model)
    number = list(TRAINERS).index(name)
    adapter = write_trainer(model.pipeline, name, tmp_path,
                            file_dtype(model, number), seed=number)
    check(name, [(adapter, 1.0, 0.75)], trainer.relative)


# ---- Every container and naming, beside diffusers and PEFT ------------------

@pytest.mark.parametrize("name", LAYOUTS)
def test_naming(model, check, tmp_path, name):
    layout = LAYOUTS[name]
    skip_without_original_names(layout, model)
    number = list(LAYOUTS).index(name)
    adapter = write_layout(model.pipeline, name, tmp_path,
                           file_dtype(model, number), seed=number)

    def fused(dtype):
        return fused_weights(model.folder, dtype, adapter, 0.75)

    check(f"naming: {name}", [(adapter, 0.75, 0.75)],
          reference=fused if layout.reference else None)


DORA = LoraConfig(r=4, lora_alpha=6, target_modules=UNET_TARGETS, use_dora=True)
PEFT_FILES = {
    "patterns": varied_configs(),
    "patterns, rank-stabilised": varied_configs(rslora=True),
    "lora_bias": {"unet": LoraConfig(
        r=4, lora_alpha=6, lora_bias=True,
        target_modules=["to_out.0", "ff.net.2", "proj_in", "conv1"])},
    "DoRA": {"unet": DORA},
    "DoRA, text encoder too": {"unet": DORA, "text_encoder": LoraConfig(
        r=3, lora_alpha=2, target_modules=TEXT_TARGETS, use_dora=True)},
}


@pytest.mark.parametrize("name", PEFT_FILES)
def test_peft_file(model, check, tmp_path, name):
    adapter = write_peft(model.pipeline, "peft", tmp_path, 5, PEFT_FILES[name])

    def check_at(strength, reference_dtypes):
        check(f"diffusers file: {name}", [(adapter, strength, strength)],
              reference=lambda dtype: fused_weights(model.folder, dtype,
                                                    adapter, strength),
              reference_dtypes=reference_dtypes)

    # The reference loses a text encoder's magnitudes, and at other strengths
    # its DoRA is another function.
    check_at(1.0, () if name == "DoRA, text encoder too" else DTYPES)
    check_at(0.75, () if name.startswith("DoRA") else ("float32",))


@pytest.mark.parametrize("options", [
    {"use_rslora": True, "rank_pattern": {"to_k": 2, "fc1": 3},
     "alpha_pattern": {"conv1": 1, "q_proj": 7}}, {"use_dora": True}],
    ids=["patterns", "DoRA"])
@pytest.mark.parametrize("component,targets", [
    ("unet", UNET_TARGETS), ("text_encoder", TEXT_TARGETS)])
def test_peft_folder(model, check, tmp_path, component, targets, options):
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, **options)
    adapter, merged = write_peft_folder(model.pipeline, component,
                                        tmp_path / "folder", 6, config)
    check(f"PEFT folder of {component}", [(adapter, 1.0, 1.0)],
          reference=lambda _: merged)


# ---- Sets -------------------------------------------------------------------

def test_sets(model, check, tmp_path):
    everything = lycoris_adapter(model, "all in one file", tmp_path).adapter
    sets = [*model.adapter_sets().values(), [(model.wild, 0.9, -1.1)],
            [(model.wild, 0.5, 0.5), (model.peft, 1.0, 0.0),
             (model.kohya, 0.0, 1.0)],
            [(everything, -0.6, 0.8), (model.kohya, 0.5, -0.4),
             (model.peft, 0.7, 1.0)]]
    for members in sets:
        if members:
            check("sets", members)


def test_zero_strength_is_not_merged(model, engines, tmp_path):
    adapter = lycoris_adapter(model, "all in one file", tmp_path).adapter
    for engine in engines.values():
        merged = engine.merged([(adapter, 0.0, 0.0)])
        assert all(torch.equal(merged[name], weight)
                   for name, weight in engine.base.items())

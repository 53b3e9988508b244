"""What is left in the base after an adapter was merged and taken out again:
PEFT's fuse and unfuse beside graft's switches, in bfloat16.

  drift.py ENGINE_PROBE [--adapters 8] [--same_strength] [--norm 0.1]

A cycle merges an adapter and takes it out again: each in its turn, at random
strengths from 0.5 to 1.5 as requests ask for them. (With --same_strength PEFT
ends in a loop: what one round of all adapters did to the base, the next does
not change any more.) The model is small, its weights random; the shares depend
on how strong the adapters are (--norm, relative to the weights), hardly on the
model's size. Prints the table of the README: of the adapted weights the share
that changed, and the mean change relative to the mean weight.
"""

import argparse
import itertools
import os
import pathlib
import random
import sys
import tempfile
from collections.abc import Iterator

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "parity"))

import torch  # noqa: E402

import reference_models  # noqa: E402
from peft_unet import PeftUnet  # noqa: E402
from probe import Probe  # noqa: E402
from random_lora import target_weights, write_random_lora  # noqa: E402

CYCLES = (1, 10, 100, 1000)
DTYPE = torch.bfloat16

Weights = dict[str, torch.Tensor]


def drift(base: Weights, weights: Weights) -> tuple[float, float]:
    """The share that changed, and mean |change| / mean |weight|."""
    before, after = (torch.cat([tensors[name].flatten().double()
                                for name in base])
                     for tensors in (base, weights))
    return (float((before != after).double().mean()),
            float((after - before).abs().mean() / before.abs().mean()))


class PeftCycles:
    def __init__(self, folder: pathlib.Path, adapters: list[pathlib.Path]):
        self._unet = PeftUnet(folder / "unet", DTYPE)
        for path in adapters:
            self._unet.load(path)

    def cycle(self, adapter: pathlib.Path, strength: float) -> None:
        self._unet.fuse(adapter.stem, strength)
        self._unet.unfuse()

    def weights(self) -> Weights:
        return {name.removesuffix(".weight"): tensor
                for name, tensor in self._unet.weights().items()}


class GraftCycles:
    def __init__(self, probe: Probe, folder: pathlib.Path):
        self._probe = probe
        self._job = {"model": folder, "dtype": "bfloat16"}

    def cycle(self, adapter: pathlib.Path, strength: float) -> None:
        merged = self._probe.call("digest", adapters=[
            {"path": adapter, "unet_weight": strength,
             "text_encoder_weight": 0.0}], **self._job)
        restored = self._probe.call("digest", adapters=[], **self._job)
        assert merged != restored, "the adapter changed nothing"

    def weights(self) -> Weights:
        tensors = self._probe.tensors("weights", adapters=[], **self._job)
        return {name.removeprefix("unet.").removesuffix(".weight"): tensor
                for name, tensor in tensors.items()}


def print_table(base: Weights, sides: list,
                turns: Iterator[tuple[pathlib.Path, float]]) -> None:
    print("| cycles | PEFT: changed | PEFT: mean drift | graft: changed | "
          "graft: mean drift |")
    print("|---:|---:|---:|---:|---:|")
    done = 0
    for cycles in CYCLES:
        for turn in itertools.islice(turns, cycles - done):
            for side in sides:
                side.cycle(*turn)
        done = cycles
        cells = [f"{100 * value:.3g} %" for side in sides
                 for value in drift(base, side.weights())]
        print(f"| {cycles} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("engine_probe")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--same_strength", action="store_true",
                        help="1, always")
    parser.add_argument("--norm", type=float, default=0.1)
    parser.add_argument("--rank", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as small as they are
    with tempfile.TemporaryDirectory() as scratch:
        folder = reference_models.write_model(
            pathlib.Path(scratch) / "model",
            reference_models.ARCHITECTURES["sd1"])
        targets = target_weights(folder / "unet", "transformers")
        adapters = [pathlib.Path(scratch) / f"adapter{i}.safetensors"
                    for i in range(arguments.adapters)]
        for seed, path in enumerate(adapters):
            write_random_lora(path, targets, arguments.rank, DTYPE,
                              arguments.norm, seed)
        base = {name: weight.to(DTYPE) for name, weight in targets.items()}
        probe = Probe(arguments.engine_probe, pathlib.Path(scratch), threads=1)
        numbers = random.Random(0)
        turns = ((path, 1.0 if arguments.same_strength
                  else numbers.uniform(0.5, 1.5))
                 for path in itertools.cycle(adapters))
        print_table(base, [PeftCycles(folder, adapters),
                           GraftCycles(probe, folder)], turns)
        probe.close()


if __name__ == "__main__":
    main()

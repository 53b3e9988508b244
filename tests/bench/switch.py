"""How long a switch from one resident adapter to another takes: graftd, as its
clients see it (timings_ms.switch), beside PEFT's unfuse and fuse of resident
adapters and a plain copy of the same bytes.

  switch.py PROGRAMS                      the headline: attention, rank 16
  switch.py PROGRAMS --full               ranks 4 to 128, three target sets
  switch.py PROGRAMS --log                the undo log's size by strength
  switch.py PROGRAMS --size sdxl          a U-Net of SDXL's size
  switch.py PROGRAMS --size tiny          to try it; the figures mean nothing

PROGRAMS is the folder with graftd and graft. The model has random weights; it
is written to --folder, 4 GB (SDXL: 12 GB), unless it is there.

All three are interleaved in one run, ours-PEFT-PEFT-ours with a copy between
any two, with idle OpenMP threads asleep on both sides. Medians. "limit" is the
copy plus the products of both adapters at the rate of a large matrix product
measured in the same run, in bfloat16 for bfloat16 factors and in float32 for
others; "share" is the part of our time that it makes up. No figure is printed
unless afterwards the base weights are intact, bit for bit, and an adapter's
image is the same file as after the first switch.
"""

import argparse
import dataclasses
import itertools
import os
import pathlib
import statistics
import sys
import tempfile
import time

# Before torch: graftd does the same for itself.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "parity"))

import torch  # noqa: E402

import reference_models  # noqa: E402
from graft_daemon import GraftDaemon  # noqa: E402
from peft_unet import PeftUnet  # noqa: E402
from random_lora import (TARGET_SETS, target_weights,  # noqa: E402
                         write_random_lora)

RANKS = (4, 8, 16, 32, 64, 128)
# Base and factors, as they are stored.
DTYPES = {"bf16/bf16": (torch.bfloat16, torch.bfloat16),
          "bf16/fp16": (torch.bfloat16, torch.float16),
          "fp32/fp32": (torch.float32, torch.float32)}
LOG_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16,
              "fp32": torch.float32}
LOG_NORMS = (0.003, 0.01, 0.03, 0.1, 0.3)
ADAPTERS = ("first", "second")
MODELS = {"tiny": reference_models.ARCHITECTURES["sd1"],
          "sd15": reference_models.FULL,
          # Its U-Net in all that adapters reach; as the pipeline of SD 1.x,
          # so without its second text encoder and its size conditioning.
          "sdxl": dataclasses.replace(
              reference_models.FULL,
              unet=dict(
                  block_out_channels=(320, 640, 1280), layers_per_block=2,
                  down_block_types=("DownBlock2D", "CrossAttnDownBlock2D",
                                    "CrossAttnDownBlock2D"),
                  up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
                                  "UpBlock2D"),
                  attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
                  transformer_layers_per_block=(1, 2, 10),
                  use_linear_projection=True, sample_size=128),
              text=dict(hidden_size=2048, intermediate_size=2048,
                        num_hidden_layers=1, num_attention_heads=16,
                        hidden_act="gelu"))}


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def timed(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


# ---- Limits -----------------------------------------------------------------

class Copy:
    """Of as many elements as an adapter changes, by all threads."""

    def __init__(self, elements: int, dtype: torch.dtype):
        self._from = torch.zeros(elements, dtype=dtype)
        self._to = torch.ones(elements, dtype=dtype)

    def run(self) -> None:
        self._to.copy_(self._from)


def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations in a second of a large product."""
    side = 2048
    a, b = torch.randn(2, side, side).to(dtype)
    torch.mm(a, b)
    return 2 * side ** 3 / min(timed(torch.mm, a, b) for _ in range(5))


def product_operations(weights: dict[str, torch.Tensor], rank: int) -> int:
    """Of subtracting one adapter and adding another."""
    return 2 * sum(2 * rank * weight.numel() for weight in weights.values())


# ---- One row of the table ---------------------------------------------------

@dataclasses.dataclass
class Cell:
    target_set: str
    rank: int
    dtypes: str
    weights: dict[str, torch.Tensor]
    ours: list[float] = dataclasses.field(default_factory=list)
    peft: list[float] = dataclasses.field(default_factory=list)
    copy: list[float] = dataclasses.field(default_factory=list)
    rate: float = 0.0
    log_bytes: int = 0

    @property
    def base_dtype(self) -> torch.dtype:
        return DTYPES[self.dtypes][0]

    @property
    def factor_dtype(self) -> torch.dtype:
        return DTYPES[self.dtypes][1]

    @property
    def elements(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def row(self) -> str:
        ours, peft, copy = (statistics.median(times) for times in
                            (self.ours, self.peft, self.copy))
        limit = copy + product_operations(self.weights, self.rank) / self.rate
        adapted = self.elements * self.base_dtype.itemsize
        return ROW(
            self.target_set, self.rank, self.dtypes, f"{adapted / 1e6:.0f}",
            f"{ours * 1e3:.1f}", f"{copy * 1e3:.1f}", f"{peft * 1e3:.1f}",
            f"{peft / ours:.1f}", f"{ours / copy:.1f}",
            f"{self.rate / 1e9:.0f}", f"{limit * 1e3:.1f}",
            f"{100 * limit / ours:.0f}%",
            f"{100 * self.log_bytes / adapted:.1f}%")


ROW = ("{:<12} {:>4} {:>9} {:>6} {:>8} {:>7} {:>8} {:>9} {:>9} {:>8} {:>8} "
       "{:>6} {:>6}").format
HEADER = ROW("targets", "rank", "base/file", "MB", "ours ms", "copy ms",
             "PEFT ms", "PEFT/ours", "ours/copy", "GFLOP/s", "limit ms",
             "share", "log")


def measure(cell: Cell, daemon: GraftDaemon, peft: PeftUnet, rounds: int
            ) -> None:
    """Switches to and fro. Raises when a bit is wrong at the end."""
    copy = Copy(cell.elements, cell.base_dtype)
    cell.rate = matrix_rate(torch.bfloat16 if cell.factor_dtype ==
                            torch.bfloat16 else torch.float32)
    names = itertools.cycle(ADAPTERS)
    images = {}

    def ours() -> float:
        name = next(names)
        seconds, image = daemon.generate(name)
        if images.setdefault(name, image) != image:
            raise RuntimeError(f"the image of \"{name}\" depends on history")
        return seconds

    def theirs(name: str) -> float:
        return timed(peft.fuse, name)

    for name in ADAPTERS:  # warm up
        ours(), theirs(name), copy.run()
    for _ in range(rounds):
        cell.ours.append(ours())
        cell.copy.append(timed(copy.run))
        cell.peft.append(theirs(ADAPTERS[0]))
        cell.copy.append(timed(copy.run))
        cell.peft.append(theirs(ADAPTERS[1]))
        cell.copy.append(timed(copy.run))
        cell.ours.append(ours())
    cell.log_bytes = daemon.restore_bytes()
    daemon.verify()


def run_cell(cell: Cell, daemon: GraftDaemon, peft: PeftUnet,
             folder: pathlib.Path, arguments: argparse.Namespace) -> None:
    for seed, name in enumerate(ADAPTERS):
        path = folder / f"{name}.safetensors"
        write_random_lora(path, cell.weights, cell.rank, cell.factor_dtype,
                          arguments.norm, seed)
        daemon.load(name)
        peft.load(path)
    measure(cell, daemon, peft, arguments.rounds)
    print(cell.row(), flush=True)
    for name in ADAPTERS:
        daemon.unload(name)
        peft.unload(name)


# ---- Tables -----------------------------------------------------------------

def start_daemon(arguments: argparse.Namespace, adapters: pathlib.Path,
                 dtype: torch.dtype) -> GraftDaemon:
    return GraftDaemon(arguments.programs, arguments.folder, adapters,
                       f"--dtype={name_of(dtype)}",
                       f"--restore={arguments.restore}")


def print_switches(arguments: argparse.Namespace, adapters: pathlib.Path
                   ) -> None:
    sets = list(TARGET_SETS) if arguments.full else ["attention"]
    ranks = RANKS if arguments.full else (16,)
    print(HEADER)
    for base_dtype, group in itertools.groupby(
            arguments.dtypes, key=lambda name: DTYPES[name][0]):
        names = list(group)
        peft = PeftUnet(arguments.folder / "unet", base_dtype)
        with start_daemon(arguments, adapters, base_dtype) as daemon:
            for target_set in sets:
                weights = target_weights(arguments.folder / "unet", target_set)
                for dtypes, rank in itertools.product(names, ranks):
                    run_cell(Cell(target_set, rank, dtypes, weights), daemon,
                             peft, adapters, arguments)


def print_log_sizes(arguments: argparse.Namespace, adapters: pathlib.Path
                    ) -> None:
    """memory.restore_bytes of one adapter, as a share of what it adapts."""
    weights = target_weights(arguments.folder / "unet", "attention")
    elements = sum(weight.numel() for weight in weights.values())
    for norm in LOG_NORMS:
        write_random_lora(adapters / f"norm{norm}.safetensors", weights, 16,
                          torch.float32, norm, seed=0)
    row = "{:<6}".format, " {:>8}".format
    print(row[0]("base"), *(row[1](f"{100 * norm:g}%") for norm in LOG_NORMS))
    for name, dtype in LOG_DTYPES.items():
        with start_daemon(arguments, adapters, dtype) as daemon:
            shares = []
            for norm in LOG_NORMS:
                daemon.load(f"norm{norm}")
                daemon.generate(f"norm{norm}")
                shares.append(daemon.restore_bytes()
                              / (elements * dtype.itemsize))
            daemon.verify()
        print(row[0](name), *(row[1](f"{100 * share:.2f}%")
                              for share in shares), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("--size", choices=MODELS, default="sd15")
    parser.add_argument("--folder", type=pathlib.Path,
                        help="of the model (default: one that is removed)")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES,
                        default=list(DTYPES))
    parser.add_argument("--restore", default="undo_log",
                        choices=["undo_log", "backup"])
    parser.add_argument("--norm", type=float, default=0.1,
                        help="of a change, relative to its weight's")
    parser.add_argument("--rounds", type=int, default=5,
                        help="with two switches of each side")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        adapters = pathlib.Path(scratch) / "adapters"
        adapters.mkdir()
        arguments.folder = (arguments.folder
                            or pathlib.Path(scratch) / arguments.size)
        if not (arguments.folder / "model_index.json").exists():
            reference_models.write_model(arguments.folder,
                                         MODELS[arguments.size])
        print(f"{arguments.size}, {torch.get_num_threads()} threads, load "
              f"average {os.getloadavg()[0]:.2f}, torch {torch.__version__}")
        (print_log_sizes if arguments.log else print_switches)(
            arguments, adapters)
        print(f"load average {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()

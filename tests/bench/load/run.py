"""graftd beside a Python server on diffusers and PEFT, under load.

  run.py PROGRAMS            a quarter of an hour
  run.py PROGRAMS --quick    five minutes, with rough figures

PROGRAMS is the folder with graftd, graft and graft_load (a release build of
this project). To repeat it:

  cmake --preset release && cmake --build --preset release
  python3 -m venv build/load
  build/load/bin/pip install -r tests/parity/requirements.txt \
      -r tests/bench/load/requirements.txt
  build/load/bin/python tests/bench/load/run.py build/release/bin

The demo model, 128 x 128 pixels, 200 adapters that are asked for by Zipf(1),
float32 on all cores, idle OpenMP threads asleep on both sides, queues of 64
requests. The Python server (python_server.py) has two forms: "python" loads,
fuses, draws, unfuses and unloads for each request; the resident one has eight
adapters in memory, beside graftd with the same eight. All servers run the whole
time; one at a time is asked, in turn.

Capacity is what a closed loop of 32 clients gets. p50 and p99 are those of
Poisson arrivals, the same for both, at 0.8 of the Python server's capacity, and
counted from the time at which a request was to be sent. Overload is five times
graftd's capacity, measured once its queue is full. Overhead is what remains of
a lone client's latency, over one connection, without the stages that the server
reports.

No figure is printed unless both servers draw the same pictures and, at the end,
graftd's are the first ones, byte for byte, and its base weights are intact.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import pathlib
import statistics
import sys
import tempfile

import numpy
from PIL import Image

from adapter_shelf import fill_shelf
from servers import Client, Launcher, Server

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
DEMO = REPOSITORY / "deploy/demo"
ADAPTERS = 200
RESIDENT = 8
QUEUE = 64
CLIENTS = 32
MAX_PICTURE_DIFFERENCE = 0.5  # of 255, mean


@dataclasses.dataclass(frozen=True)
class Plan:
    """Seconds, and how often."""
    capacity_s: int
    latency_s: int
    overload_s: int
    overhead_s: int
    rounds: int


FULL = Plan(capacity_s=25, latency_s=120, overload_s=30, overhead_s=20,
            rounds=2)
QUICK = Plan(capacity_s=12, latency_s=25, overload_s=12, overhead_s=8,
             rounds=1)


# ---- Gates ------------------------------------------------------------------

def check_pictures(client: Client, servers: list[Server], names: list[str],
                   steps: int) -> dict[str | None, bytes]:
    """Raises unless all servers draw the same. Returns the first one's."""
    first = {}
    for name in [None, *names]:
        files = [client.picture(server, name, steps) for server in servers]
        first[name] = files[0]
        expected, *others = (
            numpy.asarray(Image.open(io.BytesIO(file)), dtype=float)
            for file in files)
        for server, picture in zip(servers[1:], others):
            difference = numpy.abs(picture - expected).mean()
            if difference > MAX_PICTURE_DIFFERENCE:
                raise RuntimeError(f"{server.name} draws {name} differently, "
                                   f"by {difference:.2f} of 255")
    return first


def check_unchanged(client: Client, graft: Server,
                    first: dict[str | None, bytes], steps: int) -> None:
    for name, picture in first.items():
        if client.picture(graft, name, steps) != picture:
            raise RuntimeError(f"the picture of {name} is not the first one")
    client.verify(graft)


# ---- Measurements -----------------------------------------------------------

@dataclasses.dataclass(frozen=True)
class Capacity:
    images_per_s: float
    cpu_s_per_image: float


class Bench:
    """All measurements with one kind of image."""

    def __init__(self, client: Client, plan: Plan, steps: int):
        self._client = client
        self._plan = plan
        self._image = f"128x128:{steps}"

    def _load(self, server: Server, seconds: float, **options) -> dict:
        options = {"adapter_count": ADAPTERS, "seconds": seconds,
                   "image": self._image} | options
        summary = self._client.load(server, **options)
        print(f"  {server.name}: {summary['images_per_s']:.2f} images/s, p50 "
              f"{summary['latency_ms']['p50']:.0f} ms, load average "
              f"{os.getloadavg()[0]:.1f}", file=sys.stderr)
        return summary

    def capacities(self, servers: list[Server], adapters: int
                   ) -> list[Capacity]:
        """Of each; to and fro, so that a change of the machine hits all."""
        results = {server.name: [] for server in servers}
        for _ in range(self._plan.rounds):
            for server in [*servers, *reversed(servers)]:
                results[server.name].append(self._load(
                    server, self._plan.capacity_s, warm_up=3,
                    concurrency=CLIENTS, adapter_count=adapters, abandon=True))
        return [Capacity(*(statistics.mean(run[key] for run in results[name])
                           for key in ("images_per_s", "cpu_s_per_image")))
                for name in results]

    def latencies(self, servers: list[Server], rate: float) -> list[dict]:
        return [self._load(server, self._plan.latency_s, rate=rate, seed=1)
                ["latency_ms"] for server in servers]

    def overload(self, server: Server, capacity: float) -> tuple[float, dict]:
        """Goodput as a share of the capacity around it; the refusals."""
        rate = 5 * capacity
        until_full = 1.5 * QUEUE / (rate - capacity)
        summary = self._load(
            server, until_full + self._plan.overload_s, warm_up=until_full,
            rate=rate, abandon=True, seed=2)
        [after] = self.capacities([server], ADAPTERS)
        return (summary["images_per_s"] /
                statistics.mean([capacity, after.images_per_s]),
                summary["refused"])

    def overheads(self, servers: list[Server]) -> list[dict]:
        return [self._load(server, self._plan.overhead_s, warm_up=1,
                           concurrency=1, connections=1)["outside_ms"]
                for server in servers]


# ---- The table --------------------------------------------------------------

ROW = "{:<42} {:>10} {:>10} {:>8}  {}".format


def compared(figure: str, graft: float, python: float, wanted: str = "",
             larger_is_better: bool = False) -> str:
    ratio = graft / python if larger_is_better else python / graft
    return ROW(figure, f"{graft:.2f}", f"{python:.2f}", f"{ratio:.2f}", wanted)


def measure(bench: Bench, graft: Server, python: Server, resident: Server
            ) -> list[str]:
    ours, theirs = bench.capacities([graft, python], ADAPTERS)
    ours_few, theirs_few = bench.capacities([graft, resident], RESIDENT)
    rate = 0.8 * theirs.images_per_s
    latency, their_latency = bench.latencies([graft, python], rate)
    goodput, refused = bench.overload(graft, ours.images_per_s)
    overhead, their_overhead = bench.overheads([graft, python])
    answer = refused["answer_ms"]
    return [
        ROW("figure", "graft", "python", "ratio", "wanted"),
        compared("capacity, images/s", ours.images_per_s, theirs.images_per_s,
                 "ratio >= 3", larger_is_better=True),
        compared("  CPU seconds per image", ours.cpu_s_per_image,
                 theirs.cpu_s_per_image),
        compared(f"capacity, {RESIDENT} resident adapters",
                 ours_few.images_per_s, theirs_few.images_per_s,
                 larger_is_better=True),
        compared("  CPU seconds per image", ours_few.cpu_s_per_image,
                 theirs_few.cpu_s_per_image),
        compared(f"p50, s, {rate:.2f} requests/s", latency["p50"] / 1e3,
                 their_latency["p50"] / 1e3),
        compared("p99, s", latency["p99"] / 1e3, their_latency["p99"] / 1e3,
                 "ratio >= 3"),
        ROW("goodput at 5 times the capacity", f"{100 * goodput:.0f}%", "", "",
            ">= 90%"),
        ROW("  refused, with the time to wait",
            f"{refused['with_retry_delay']}/{refused['requests']}", "", "",
            "all"),
        ROW("  time to refusal, ms, p50", f"{answer['p50']:.1f}", "", "", ""),
        ROW("  time to refusal, ms, p99", f"{answer['p99']:.1f}", "", "",
            "<= 50"),
        compared("overhead but encoding, ms, p50", overhead["p50"],
                 their_overhead["p50"], "<= 2"),
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("--graft_load", type=pathlib.Path,
                        help="default: that of PROGRAMS")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory()))
        shelf = folder / "adapters"
        shelf.mkdir()
        names = fill_shelf(DEMO / "adapters", shelf, ADAPTERS)
        launcher = Launcher(arguments.programs, DEMO / "model", shelf, QUEUE,
                            folder)
        graft, python, resident = (stack.enter_context(server) for server in (
            launcher.graft(), launcher.python(),
            launcher.resident_python(names[:RESIDENT])))
        client = Client(arguments.programs / "graft", arguments.graft_load or
                        arguments.programs / "graft_load", folder)
        first = check_pictures(client, [graft, python, resident],
                               names[:RESIDENT], arguments.steps)
        bench = Bench(client, QUICK if arguments.quick else FULL,
                      arguments.steps)
        rows = measure(bench, graft, python, resident)
        check_unchanged(client, graft, first, arguments.steps)
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}, "
          f"{arguments.steps} steps")
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()

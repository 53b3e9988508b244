"""The servers that are compared, as their clients see them."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import psutil

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
from server_process import ServerProcess  # noqa: E402

_PYTHON_SERVER = pathlib.Path(__file__).parent / "python_server.py"


class Server(ServerProcess):
    """One of those that are compared."""

    def __init__(self, name: str, command: list, log: pathlib.Path):
        self.name = name
        super().__init__(command, log)

    def cpu_seconds(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Starts servers of one model and one folder of adapters."""
    programs: pathlib.Path
    model: pathlib.Path
    adapters: pathlib.Path
    max_queued_requests: int
    logs: pathlib.Path

    def _start(self, name: str, *command) -> Server:
        return Server(
            name,
            [*command, f"--model={self.model}",
             f"--adapter_dir={self.adapters}", "--listen=127.0.0.1:0",
             f"--max_queued_requests={self.max_queued_requests}"],
            self.logs / f"{name}.log")

    def graft(self) -> Server:
        return self._start("graft", self.programs / "graftd", "--autoload",
                           "--log_level=warning")

    def python(self) -> Server:
        return self._start("python", sys.executable, _PYTHON_SERVER)

    def resident_python(self, adapters: list[str]) -> Server:
        return self._start("python, resident", sys.executable, _PYTHON_SERVER,
                           "--resident", f"--preload={','.join(adapters)}")


class Client:
    """graft and graft_load."""

    def __init__(self, graft: pathlib.Path, graft_load: pathlib.Path,
                 folder: pathlib.Path):
        self._graft = graft
        self._graft_load = graft_load
        self._image = folder / "image.png"

    def picture(self, server: Server, adapter: str | None, steps: int
                ) -> bytes:
        """The file of one image, the same each time."""
        adapters = [f"--adapter={adapter}"] if adapter else []
        subprocess.run(
            [self._graft, f"--server={server.address}", "generate",
             "a small blue star above a big green square", "--seed=7",
             f"--steps={steps}", "--guidance=2", "--width=128", "--height=128",
             f"--out={self._image}", *adapters],
            stdout=subprocess.DEVNULL, check=True)
        return self._image.read_bytes()

    def verify(self, server: Server) -> None:
        """Raises unless all base weights are intact, bit for bit."""
        subprocess.run([self._graft, f"--server={server.address}", "verify"],
                       stdout=subprocess.DEVNULL, check=True)

    def load(self, server: Server, **options) -> dict:
        """One run of graft_load: its summary, and `cpu_s_per_image`, which
        other programs on the machine change less than the rates."""
        flags = [f"--{name}" if value is True else f"--{name}={value}"
                 for name, value in options.items()]
        before = server.cpu_seconds()
        done = subprocess.run(
            [self._graft_load, f"--server={server.address}", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"graft_load: {done.stderr}")
        summary = json.loads(done.stdout)
        bad = {answer: count for answer, count in summary["answers"].items()
               if answer != "OK" and "UNAVAILABLE" not in answer
               and "CANCELLED" not in answer}
        if bad:
            raise RuntimeError(f"{server.name} answered {bad}")
        summary["cpu_s_per_image"] = (server.cpu_seconds() - before) / max(
            summary["images_total"], 1)
        return summary

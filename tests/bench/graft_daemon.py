"""A running graftd and its client, as a user runs them."""

import json
import pathlib
import subprocess

from server_process import ServerProcess


class GraftDaemon(ServerProcess):
    """graftd on a free port."""

    def __init__(self, programs: pathlib.Path, model: pathlib.Path,
                 adapters: pathlib.Path, *options: str):
        self._client = programs / "graft"
        self._image = adapters / "image.png"
        super().__init__(
            [programs / "graftd", f"--model={model}",
             f"--adapter_dir={adapters}", "--listen=127.0.0.1:0",
             "--log_level=warning", *options])

    def call(self, *arguments: str) -> str:
        """A command of graft; what it printed."""
        done = subprocess.run(
            [self._client, f"--server={self.address}", *arguments],
            stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"graft {' '.join(arguments)}: exit code "
                               f"{done.returncode}")
        return done.stdout

    def load(self, adapter: str) -> None:
        self.call("adapter", "load", f"{adapter}.safetensors")

    def unload(self, adapter: str) -> None:
        self.call("adapter", "unload", adapter)

    def generate(self, adapter: str | None) -> tuple[float, bytes]:
        """The smallest image there is with this adapter: seconds that the
        switch took, and the image's file."""
        adapters = [f"--adapter={adapter}"] if adapter else []
        result = json.loads(self.call(
            "generate", "a star", "--seed=1", "--steps=1", "--width=64",
            "--height=64", "--guidance=1", "--json", f"--out={self._image}",
            *adapters))
        return result["timings_ms"]["switch"] / 1e3, self._image.read_bytes()

    def restore_bytes(self) -> int:
        return json.loads(self.call("info", "--json"))["memory"][
            "restore_bytes"]

    def verify(self) -> None:
        """Raises unless all base weights are intact, bit for bit."""
        self.call("verify")

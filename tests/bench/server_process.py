"""A server as a child process."""

import contextlib
import pathlib
import subprocess


class ServerProcess:
    """A program that prints "listening on HOST:PORT" when it serves; stopped at
    the end of a `with`. What it says else goes to `log`, or to our own
    stderr."""

    def __init__(self, command: list, log: pathlib.Path | None = None):
        with contextlib.ExitStack() as files:
            errors = files.enter_context(log.open("w")) if log else None
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True)
        line = self._process.stdout.readline()
        if not line.startswith("listening on "):
            self.close()
            raise RuntimeError(f"{command[0]} did not start: {line!r}"
                               + (f"\n{log.read_text()}" if log else ""))
        self.address = line.split()[2]
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

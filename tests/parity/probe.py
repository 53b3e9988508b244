"""The client of engine_probe.cc, which documents the jobs."""

import json
import os
import pathlib
import subprocess

import torch
from safetensors.torch import load_file, save_file


def adapters_of(members) -> list[dict]:
    """A job's "adapters": each (Adapter, U-Net weight, text encoder weight)."""
    return [{"path": adapter.path, "component": adapter.component,
             "unet_weight": unet, "text_encoder_weight": text}
            for adapter, unet, text in members]


class ProbeError(Exception):
    """The engine's own error message."""


class Probe:
    """One process that answers one job after the other."""

    def __init__(self, program: str, scratch: pathlib.Path, threads: int):
        self._scratch = scratch
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)})

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def call(self, op: str, inputs: dict[str, torch.Tensor] | None = None,
             **job):
        """The answer to a job. `inputs` are what it reads from "in"."""
        if inputs is not None:
            job["in"] = str(self._scratch / "in.safetensors")
            save_file(inputs, job["in"])
        line = json.dumps({"op": op, **job}, default=str)
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise ProbeError(f"the probe ended with {self._process.wait()} "
                             f"at {line[:400]}")
        answer = json.loads(reply)
        if "error" in answer:
            raise ProbeError(answer["error"])
        return answer["ok"]

    def tensors(self, op: str, inputs: dict[str, torch.Tensor] | None = None,
                **job) -> dict[str, torch.Tensor]:
        """The tensors that a job leaves in its "out"."""
        out = self._scratch / "out.safetensors"
        self.call(op, inputs, out=out, **job)
        # Copies: the next job overwrites the mapped file.
        return {name: tensor.clone() for name, tensor in load_file(out).items()}

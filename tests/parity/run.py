"""Runs the parity tests: run.py ENGINE_PROBE [PYTEST ARGUMENT]...

Ends with status 77, which CTest shows as "skipped", where the reference
implementation is not installed.
"""

import importlib.util
import os
import pathlib
import sys

NEEDED = ("torch", "diffusers", "transformers", "peft", "safetensors", "pytest")


def main() -> int:
    missing = [name for name in NEEDED
               if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}; "
              "deploy/install.sh --tests installs the reference implementation")
        return 77
    # Nothing may be fetched: all models are made here.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import pytest
    folder = pathlib.Path(__file__).parent
    return pytest.main(["--rootdir", str(folder), "-p", "no:cacheprovider",
                        "-q", "--engine-probe", sys.argv[1],
                        *(sys.argv[2:] or [str(folder)])])


if __name__ == "__main__":
    sys.exit(main())

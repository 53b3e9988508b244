"""Runs the parity tests: run.py ENGINE_PROBE [PYTEST ARGUMENT]...

As in: run.py build/release/bin/engine_probe test_images.py -k euler

Ends with status 77, which CTest shows as "skipped", where the reference
implementation is not installed.
"""

import importlib.util
import os
import pathlib
import sys

NEEDED = ("torch", "diffusers", "transformers", "peft", "lycoris",
          "safetensors", "pytest")


def main() -> int:
    missing = [name for name in NEEDED
               if importlib.util.find_spec(name) is None]
    if missing:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}; "
              "deploy/install.sh --tests installs the reference implementation")
        return 77
    # Nothing may be fetched: all models are made here.
    os.environ["HF_HUB_OFFLINE"] = "1"
    program = str(pathlib.Path(sys.argv[1]).resolve())
    os.chdir(pathlib.Path(__file__).parent)
    import pytest
    return pytest.main(["-q", "-p", "no:cacheprovider",
                        # The reference's, not ours.
                        "-W", "ignore::DeprecationWarning",
                        "-W", "ignore::FutureWarning",
                        f"--engine-probe={program}", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())

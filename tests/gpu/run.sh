#!/usr/bin/env bash
# Checks and times graft on a machine with an NVIDIA GPU, in one call: builds with
# the CUDA kernels; runs the switch's and the engine's tests on the device, every
# dtype and restore mode, bit for bit, and once under compute-sanitizer, where that
# is there; draws with the daemon; then times switches beside a copy of the same
# bytes and beside PEFT. A failed check ends it before any time is printed, and
# switch_bench checks the bits of each of its rows itself.
#
#   tests/gpu/run.sh [cuda:N]
set -euo pipefail
cd "$(dirname "$0")/../.."
device=${1:-cuda:0}
bin=build/release/bin
python=build/deps/venv/bin/python

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv

deploy/install.sh --tests --cuda
cmake --preset release -DGRAFT_ENABLE_CUDA=ON
cmake --build --preset release --target graftd graft warp_tile_test \
  ptx_kernels_test adapter_switcher_test torch_engine_test switch_bench

export GRAFT_TEST_DEVICE=$device
# The same code on the CPU: which side a failure is on.
"$bin/warp_tile_test"
"$bin/ptx_kernels_test"
"$bin/adapter_switcher_test"
# Each of those switches is compared with an engine of its own, which takes long.
GRAFT_TEST_SWITCHES=400 "$bin/torch_engine_test"
if command -v compute-sanitizer > /dev/null; then
  # Merging, restoring from the log, and what goes another way.
  few='*MergesScaledProduct*:*GoesFromSetToSetAndBack*:*RefusesWhatWouldOverflow*'
  for tool in memcheck racecheck synccheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "$bin/adapter_switcher_test" --gtest_filter="$few"
  done
else
  echo "compute-sanitizer: not found, so not run"
fi

deploy/quickstart.sh   # --device auto: the GPU
grep 'device=cuda' build/quickstart/graftd.log

for model in sd15 sdxl; do
  "$bin/switch_bench" "$device" "$model"
  if "$python" -c 'import torch, diffusers, peft; assert torch.cuda.is_available()'
  then
    "$python" tests/gpu/peft_switch.py "$device" "$model"
  else
    echo "PEFT: this Python has none that reaches the GPU, so not timed"
  fi
done

#!/usr/bin/env bash
# Checks graft on a machine with an NVIDIA GPU, in one call: builds with the CUDA
# kernels, runs the engine's tests on the device (every dtype, 200 random switches
# each, bit for bit), then draws with the daemon and compares the base's pictures.
#
#   tests/gpu/run.sh [cuda:N]
set -euo pipefail
cd "$(dirname "$0")/../.."
device=${1:-cuda:0}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
deploy/install.sh --cuda
cmake --preset release -DGRAFT_ENABLE_CUDA=ON
cmake --build --preset release --target graftd graft graft_cuda torch_engine_test
GRAFT_TEST_DEVICE=$device build/release/bin/torch_engine_test
deploy/quickstart.sh   # --device auto: the GPU
grep 'device=cuda' build/quickstart/graftd.log

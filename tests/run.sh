#!/usr/bin/env bash
# Installs, builds and runs all tests: unit, integration, parity with the
# reference implementation. With arguments: passed on to ctest, as in
#   tests/run.sh -L unit
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/install.sh --tests
# Warnings are errors in CI only: a newer compiler of a user's may know more.
cmake --preset release -DGRAFT_BUILD_TESTS=ON \
  -DGRAFT_WARNINGS_AS_ERRORS="$([ -n "${CI:-}" ] && echo ON || echo OFF)"
cmake --build --preset release
# Every public header compiles alone, with nothing but what its room may use.
cmake --build --preset release --target all_verify_interface_header_sets
# Several test programs compute at once: idle OpenMP threads must not spin.
export OMP_WAIT_POLICY=PASSIVE
ctest --preset release --parallel "$(nproc)" "$@"

#!/usr/bin/env bash
# The sanitizer and thread-analysis builds, which take too long for every change:
#   asan    AddressSanitizer + UndefinedBehaviorSanitizer, the whole suite but
#           parity
#   tsan    ThreadSanitizer, the rooms without LibTorch (which is not
#           instrumented)
#   clang   Clang's thread-safety analysis as errors, the same rooms
# Without arguments: all three.
set -euo pipefail
cd "$(dirname "$0")/.."

deploy/install.sh --tests
suppressions=$PWD/tests/sanitizers
export ASAN_OPTIONS=detect_leaks=1:detect_odr_violation=0
export LSAN_OPTIONS=suppressions=$suppressions/lsan.supp
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=suppressions=$suppressions/tsan.supp
export OMP_WAIT_POLICY=PASSIVE

for preset in "${@:-asan tsan clang}"; do
  for name in $preset; do
    echo "=== $name"
    if [ "$name" = clang ] && ! command -v clang++ >/dev/null; then
      run=()
      [ "$(id -u)" -eq 0 ] || run=(sudo)
      "${run[@]}" apt-get install -y -qq --no-install-recommends clang >/dev/null
    fi
    cmake --preset "$name" >/dev/null
    cmake --build --preset "$name"
    # Real gRPC reports races everywhere under tsan: it is not instrumented.
    case "$name" in
      asan) ctest --preset asan -LE parity ;;
      tsan) ctest --preset tsan -LE 'parity|integration' ;;
    esac
  done
done

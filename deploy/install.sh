#!/usr/bin/env bash
# Installs what graft is built with and what is missing on this machine:
#   - Debian packages (apt): compiler, CMake, gRPC, Protobuf, Abseil, GoogleTest...
#   - LibTorch (the PyPI package torch, pinned) and googleapis' error protos, into
#     a Python environment of the project's own: build/deps/venv
# Safe to run again: does nothing when all is there.
#
#   deploy/install.sh            what building and running needs
#   deploy/install.sh --tests    and what the tests need: the reference
#                                implementation (diffusers, peft) with full torch,
#                                and promtool
#   deploy/install.sh --no-torch no LibTorch: you bring your own through
#                                CMAKE_PREFIX_PATH
#
#   deploy/install.sh --cuda     and what a GPU needs: NVIDIA's CUDA libraries for
#                                LibTorch (which --tests brings, too), and the
#                                compiler for graft's own kernels
set -euo pipefail
cd "$(dirname "$0")/.."

with_tests=false
with_torch=true
with_cuda=false
for argument in "$@"; do
  case "$argument" in
    --tests) with_tests=true ;;
    --no-torch) with_torch=false ;;
    --cuda) with_cuda=true ;;
    -h | --help)
      sed -n '2,/^set/p' "$0" | sed -e '/^set/d' -e 's/^# \{0,1\}//'
      exit 0
      ;;
    *)
      echo "install.sh: unknown argument $argument (see --help)" >&2
      exit 2
      ;;
  esac
done

# LibTorch's version is part of what makes images reproducible: pinned. The two
# NVIDIA packages are the ones that its CPU library is linked with.
torch_packages=(torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)
nvcc_packages=(nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
  nvidia-cuda-cccl==13.0.85)
proto_package=googleapis-common-protos==1.76.0

packages=(
  g++ cmake ninja-build ccache mold pkg-config ca-certificates git
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  libgtest-dev libgmock-dev
  nlohmann-json3-dev libpng-dev libssl-dev libspdlog-dev libcli11-dev libicu-dev libre2-dev
  prometheus-cpp-dev
  python3 python3-venv python3-pil fonts-dejavu-core
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing+=("$package")
done
if ((${#missing[@]} > 0)); then
  echo "installing with apt: ${missing[*]}"
  run=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
      echo "install.sh: run it as root, or install sudo; missing: ${missing[*]}" >&2
      exit 1
    }
    run=(sudo)
  fi
  "${run[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq \
    --no-install-recommends "${missing[@]}" >/dev/null
fi

# Prometheus' tool, which checks metrics and alert rules. Installing its package
# would start a server on this machine, so only the program is taken out of it.
if $with_tests && ! command -v promtool >/dev/null && ! [ -x build/deps/bin/promtool ]; then
  echo "fetching promtool"
  (
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    mkdir -p build/deps/bin
    cd "$folder"
    # As oneself: apt's own user cannot write into the folder.
    apt-get -o APT::Sandbox::User=root download -qq prometheus
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool
    mv usr/bin/promtool "$OLDPWD/build/deps/bin/promtool"
  )
fi

venv=build/deps/venv
# Debian's own interpreter: the one that python3-venv and python3-pil belong to.
[ -x $venv/bin/python ] || /usr/bin/python3 -m venv $venv

# pip_install STAMP ARGUMENTS...: once for each list of arguments, and again when
# a requirements file among them has changed.
pip_install() {
  local stamp=$venv/$1 wanted
  shift
  wanted="$* $([ "$1" != -r ] || cksum <"$2")"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  echo "installing with pip: $*"
  $venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
  echo "$wanted" >"$stamp"
}

pip_install .graft-protos --no-deps "$proto_package"
if $with_torch; then
  if $with_tests; then
    pip_install .graft-tests -r tests/parity/requirements.txt
  elif $with_cuda; then
    pip_install .graft-cuda "${torch_packages[0]}"
  elif ! [ -e $venv/.graft-tests ] && ! [ -e $venv/.graft-cuda ]; then
    pip_install .graft-torch --no-deps "${torch_packages[@]}"
  fi
fi
if $with_cuda; then
  pip_install .graft-nvcc --no-deps "${nvcc_packages[@]}"
  # Under the names that compiler and linker look for.
  cuda=$(echo $venv/lib/python3*/site-packages/nvidia/cu13)
  ln -sfn lib "$cuda/lib64"
  ln -sf libcudart.so.13 "$cuda/lib/libcudart.so"
fi

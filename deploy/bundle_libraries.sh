#!/usr/bin/env bash
# Copies the shared libraries that the installed programs need beside them, so
# that the container's last stage needs no package manager: everything but the C
# library's own, which the stage has.
#
#   deploy/bundle_libraries.sh PREFIX cpu|cuda
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=$1
device=$2
target=$prefix/lib/graft
[ -d "$target" ] || target=$(dirname "$(find "$prefix" -name libc10.so)")

libraries=$(ldd "$prefix"/bin/* "$target"/*.so* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u)
for library in $libraries; do
  case "$(basename "$library")" in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | ld-linux*) ;;
    *) [ -e "$target/$(basename "$library")" ] || cp -L "$library" "$target/" ;;
  esac
done

if [ "$device" = cuda ]; then
  packages=$(echo build/deps/venv/lib/python3*/site-packages)
  cp -L "$packages"/torch/lib/*.so* "$packages"/nvidia/*/lib/*.so* "$target/"
  rm -f "$target"/libtorch_python.so
fi
du -sh "$prefix"

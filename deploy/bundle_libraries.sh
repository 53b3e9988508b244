#!/usr/bin/env bash
# Copies the shared libraries that the installed programs need beside them, so
# that the container's last stage needs no package manager: everything but the C
# library's own, which the stage has. Their licences come to share/doc/graft.
#
#   deploy/bundle_libraries.sh PREFIX cpu|cuda
set -euo pipefail
cd "$(dirname "$0")/.."
prefix=$1
device=$2
target=$prefix/lib/graft
[ -d "$target" ] || target=$(dirname "$(find "$prefix" -name libc10.so)")

licences=$prefix/share/doc/graft
mkdir -p "$licences"

# Of the Debian package that a library is from, if it is from one.
keep_licence() {
  local file package
  file=$(realpath "$1")
  package=$(dpkg-query -S "$file" 2> /dev/null || dpkg-query -S "${file#/usr}" 2> /dev/null) ||
    return 0
  package=${package%%:*}
  cp -L "/usr/share/doc/$package/copyright" "$licences/$package.txt"
}

libraries=$(ldd "$prefix"/bin/* "$target"/*.so* | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u)
for library in $libraries; do
  case "$(basename "$library")" in
    libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | libutil.so.* | ld-linux*) ;;
    *)
      [ -e "$target/$(basename "$library")" ] || cp -L "$library" "$target/"
      keep_licence "$library"
      ;;
  esac
done

# Compiled in, as headers and messages.
for package in nlohmann-json3-dev libcli11-dev; do
  cp -L "/usr/share/doc/$package/copyright" "$licences/$package.txt"
done
packages=$(echo build/deps/venv/lib/python3*/site-packages)
for package in "$packages"/torch-*.dist-info "$packages"/{nvidia_,googleapis_}*.dist-info; do
  [ -d "$package/licenses" ] || continue
  cp -rT "$package/licenses" "$licences/$(basename "${package%.dist-info}")"
done
if [ "$device" = cuda ]; then
  cp -L "$packages"/torch/lib/*.so* "$packages"/nvidia/*/lib/*.so* "$target/"
  cp "$packages"/nvidia/cusparselt/LICENSE.txt "$licences/nvidia_cusparselt.txt"
  # What nothing is linked with or opens: of Python, of the compiler, and siblings.
  (cd "$target" && rm -f libtorch_python.so libshm.so libcudart.so libnvvm.so.* \
    libnvrtc*.alt.so.* libcusolverMg.so.* libcufftw.so.* libnvblas.so.* \
    libcheckpoint.so libpcsamplingutil.so)
fi
du -sh "$prefix"

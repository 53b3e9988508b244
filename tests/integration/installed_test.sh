#!/usr/bin/env bash
# What `cmake --install` writes serves by itself: with its own demo model, from
# any directory, and without the build's.
#
#   installed_test.sh BUILD_FOLDER
set -euo pipefail
build=$(realpath "$1")
work=$(mktemp -d)
daemon=
clean_up() {
  [ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

cmake --install "$build" --prefix "$work/installed" >/dev/null
cd "$work"
if (cd installed && find . -type f) |
  grep -v -E '^\./(bin/(graft|graftd)$|share/doc/graft/LICENSE$|share/graft/(proto|demo/(model|adapters))/|lib/)'; then
  echo "the files above do not belong to an installation" >&2
  exit 1
fi

# Only the installed demo has this one.
demo=installed/share/graft/demo/adapters
cp $demo/night.safetensors $demo/dusk.safetensors
installed/bin/graftd --listen 127.0.0.1:0 >out 2>log &
daemon=$!
until address=$(sed -n 's/^listening on //p' out) && [ -n "$address" ]; do
  kill -0 $daemon || { cat log >&2; exit 1; }
  sleep 0.1
done
installed/bin/graft --server "$address" adapter load dusk.safetensors
installed/bin/graft --server "$address" generate "a star" --steps 2 --adapter dusk --out star.png
head -c 8 star.png | od -An -tx1 | grep -q '89 50 4e 47 0d 0a 1a 0a'
kill -TERM $daemon
wait $daemon
daemon=

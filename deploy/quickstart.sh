#!/usr/bin/env bash
# From nothing to pictures: installs, builds, starts graftd with the demo model on
# a free loopback port, loads the demo adapters, draws one prompt with the base,
# with each adapter, with two adapters mixed and with the base again, and writes
# them on one sheet: build/quickstart/sheet.png.
#
# The last picture must equal the first byte for byte: switching adapters in place
# leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

prompt=${1:-a big red circle left of a big blue heart on a yellow background}
seed=${SEED:-7}
steps=${STEPS:-25}
guidance=${GUIDANCE:-2}
out=build/quickstart

deploy/install.sh
mkdir -p build
cmake --preset release >build/quickstart-configure.log 2>&1 ||
  { tail -20 build/quickstart-configure.log >&2; exit 1; }
cmake --build --preset release --target graftd graft

bin=build/release/bin
# Debian's own, which python3-pil belongs to: another one may come first in PATH.
python=/usr/bin/python3
rm -rf $out
mkdir -p $out

# --- The daemon ---------------------------------------------------------------
: >$out/graftd.out
$bin/graftd --listen 127.0.0.1:0 >$out/graftd.out 2>$out/graftd.log &
daemon=$!
stop() {
  kill -TERM $daemon 2>/dev/null || true
  wait $daemon 2>/dev/null || true
}
trap stop EXIT
until address=$(sed -n 's/^listening on //p' $out/graftd.out) && [ -n "$address" ]; do
  if ! kill -0 $daemon 2>/dev/null; then
    echo "graftd did not start:" >&2
    tail -20 $out/graftd.log >&2
    exit 1
  fi
  sleep 0.1
done
export GRAFT_SERVER=$address
echo "graftd serves the demo model on $address"

# --- The adapters -------------------------------------------------------------
adapters=()
for file in deploy/demo/adapters/*.safetensors; do
  $bin/graft adapter load "$(basename "$file")"
  adapters+=("$(basename "$file" .safetensors)")
done

# --- The pictures -------------------------------------------------------------
# draw LABEL FILE [--adapter NAME=WEIGHT]...
captions=()
draw() {
  local label=$1 file=$out/$2.png
  shift 2
  local switch
  switch=$($bin/graft generate "$prompt" --seed "$seed" --steps "$steps" \
    --guidance "$guidance" --out "$file" --json "$@" |
    $python -c 'import json,sys; print("%.2f" % json.load(sys.stdin)["timings_ms"]["switch"])')
  printf '%-28s switch %7s ms\n' "$label" "$switch"
  captions+=("$file" "$label" "switch $switch ms")
}

echo "drawing: $prompt"
draw "base" 0-base
number=1
for adapter in "${adapters[@]}"; do
  draw "$adapter" "$number-$adapter" --adapter "$adapter"
  number=$((number + 1))
done
draw "${adapters[0]} 0.6 + ${adapters[1]} 0.6" "$number-mixed" \
  --adapter "${adapters[0]}=0.6" --adapter "${adapters[1]}=0.6"
number=$((number + 1))
draw "base again" "$number-base"

$python deploy/contact_sheet.py --title "$prompt (seed $seed)" $out/sheet.png "${captions[@]}"
echo "wrote $out/sheet.png"

if cmp -s $out/0-base.png "$out/$number-base.png"; then
  echo "base restored: identical"
else
  echo "base restored: DIFFERENT"
  exit 1
fi

#!/usr/bin/env bash
# Makes the demo model and its adapters, all from nothing, on a CPU. Needs Python with torch, diffusers, transformers,
# safetensors, numpy and pillow. About five hours on two cores; every stage that left its result behind is skipped,
# so an interrupted run goes on where it stopped.
#
#   PYTHON=python3 WORK=/some/scratch/folder deploy/demo/make_demo.sh
#
# VAE_MINUTES, DECODER_MINUTES, LAYOUT_MINUTES, BASE_MINUTES, ADAPTER_MINUTES, PICTURES and PROCESSES (two) change the amounts.
# FROM=deploy/demo/model starts from finished weights instead of nothing: the base and the decoder are trained on.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
code=$here/training
work=${WORK:-$here/../../build/demo-training/make}
out=${OUT:-$here}
python=${PYTHON:-python3}
from=${FROM:-}
processes=${PROCESSES:-2}
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$work/inductor}
mkdir -p "$work" "$out/adapters"

say() { printf '== %s\n' "$*"; }

say "tokenizer"
"$python" "$code/vocabulary.py" "$work/tokenizer"

say "VAE"
vae=$work/vae
if [[ -n $from ]]; then
  vae=$from/vae
elif [[ ! -f $vae/config.json ]]; then
  "$python" "$code/vae.py" --out "$vae" --minutes "${VAE_MINUTES:-30}"
fi

say "text encoder: layout"
if [[ ! -f $work/layout/reader.pt ]]; then
  init=()
  [[ -n $from ]] && init=(--init "$from/text_encoder")
  "$python" "$code/layout.py" --tokenizer "$work/tokenizer" --out "$work/layout" "${init[@]}" \
    --minutes "${LAYOUT_MINUTES:-6}"
fi

say "latents"
if [[ ! -f $work/latents.pt ]]; then
  "$python" "$code/latents.py" --vae "$vae" --out "$work/latents.pt" --seed 1 --count "${PICTURES:-48000}"
fi

say "U-Net and text encoder"
factor=$("$python" - "$vae" "$work/latents.pt" "$from" <<'EOF'
import json, sys, torch
if sys.argv[3]:
    print(json.load(open(sys.argv[1] + "/config.json"))["scaling_factor"])
else:
    print(round(1 / torch.load(sys.argv[2], weights_only=False)["latents"].float().std().item(), 4))
EOF
)
if [[ ! -f $work/base/done ]]; then
  start=()
  [[ -n $from ]] && start=(--unet "$from/unet")
  "$python" "$code/base.py" --tokenizer "$work/tokenizer" --layout "$work/layout" --latents "$work/latents.pt" \
    --out "$work/base" --scaling-factor "$factor" --processes "$processes" --minutes "${BASE_MINUTES:-180}" \
    --resume "${start[@]}"
  touch "$work/base/done"
fi

say "decoder"
if [[ ! -f $work/vae_final/config.json ]]; then
  "$python" "$code/vae.py" --init "$vae" --decoder-only --out "$work/vae_final" --minutes "${DECODER_MINUTES:-20}"
fi

say "model folder"
"$python" "$code/assemble.py" --tokenizer "$work/tokenizer" --text-encoder "$work/base/text_encoder" \
  --unet "$work/base/unet" --vae "$work/vae_final" --scaling-factor "$factor" --out "$out/model"

say "adapters"
for style in outline night pixel watercolour; do
  "$python" "$code/adapter.py" --model "$out/model" --style "$style" --out "$out/adapters/$style.safetensors" \
    --minutes "${ADAPTER_MINUTES:-12}"
done

say "measuring"
"$python" "$here/evaluate.py" --model "$out/model"
for style in outline night pixel watercolour; do
  say "$style"
  "$python" "$here/evaluate.py" --model "$out/model" --adapter "$out/adapters/$style.safetensors" --count 40
done

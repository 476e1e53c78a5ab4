#!/usr/bin/env bash
# Four planes, which the small model has never seen, become an adapter; then views of one without and with it.
# With own meshes: python -m imagedream render FOLDER --out outputs/own-objects ... (no --only), and their picture for views.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=outputs/own-objects
mkdir -p "$OUT"
printf 'toy-%06d\n' 7 15 29 45 > "$OUT/planes.txt"
# cameras as the model knows them: configs/train/toybox-diffusion.yaml
python -m imagedream render toybox:46 --only "$OUT/planes.txt" --out "$OUT/shards" --size 64 --rings 2 \
    --elevation-deg 0 20 --fov-y-deg 45 50 --relative-distance 0.71 0.75
python -m imagedream train --config configs/train/lora-own-objects.yaml
tar --extract --to-stdout --file "$OUT/shards/shard-000000.tar" toy-000007_0.prompt_000.png > "$OUT/plane.png"
for scale in 0 1; do
    python -m imagedream views "$OUT/plane.png" --prompt "a green plane" --steps 20 \
        --adapter outputs/train/lora-own-objects/adapter.safetensors --adapter-scale "$scale" --out "$OUT/views-$scale.png"
done

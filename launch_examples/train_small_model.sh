#!/usr/bin/env bash
# Train the small model that ships from nothing: CLIP, autoencoder, network, then put together. Resumes where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
python -m imagedream train --config configs/train/toybox-encoder.yaml
python -m imagedream train --config configs/train/toybox-autoencoder.yaml
python -m imagedream train --config configs/train/toybox-diffusion.yaml
python -m imagedream assemble --out outputs/toybox \
    --encoder outputs/train/toybox-encoder --autoencoder outputs/train/toybox-autoencoder \
    --guidance-scale 1 --refine-strength 0.5 --num-inference-steps 10
python -m imagedream evaluate views --weights outputs/toybox --n 32

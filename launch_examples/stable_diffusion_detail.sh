#!/usr/bin/env bash
# ImageDream, and late in the run Stable Diffusion for texture detail; needs CUDA and both weights: PICTURE CAPTION
set -euo pipefail
cd "$(dirname "$0")/.."
exec python launch.py --config imagedream-stable-diffusion.yaml --train \
    system.guidance.weights=Peng-Wang/ImageDream/sd-v2.1-base-4view-ipmv.pt \
    system.prompt_processor.image_path="$1" system.prompt_processor.prompt="$2"

#!/usr/bin/env bash
# Pictures of an object's front and back, with the published model; needs CUDA: FRONT BACK CAPTION
set -euo pipefail
cd "$(dirname "$0")/.."
exec python launch.py --config imagedream-several-pictures.yaml --train \
    system.guidance.weights=Peng-Wang/ImageDream/sd-v2.1-base-4view-ipmv.pt \
    system.prompt_processor.front_path="$1" system.prompt_processor.back_path="$2" system.prompt_processor.prompt="$3"

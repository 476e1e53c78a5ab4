#!/usr/bin/env bash
# ImageDream and Stable Zero123; needs CUDA, a real threestudio with Zero123's weights in its load/zero123, and: PICTURE CAPTION
set -euo pipefail
cd "$(dirname "$0")/.."
exec python launch.py --threestudio "${THREESTUDIO_ROOT:?folder of a threestudio}" --config imagedream-zero123.yaml --train \
    system.guidance.weights=Peng-Wang/ImageDream/sd-v2.1-base-4view-ipmv.pt \
    system.prompt_processor.image_path="$1" system.prompt_processor.prompt="$2"

#!/usr/bin/env bash
# The pixel and the local model of ImageDream in one run; needs CUDA and their weights: PICTURE CAPTION
set -euo pipefail
cd "$(dirname "$0")/.."
hub=Peng-Wang/ImageDream
exec python launch.py --config imagedream-two-models.yaml --train \
    system.guidance.weights=$hub/sd-v2.1-base-4view-ipmv.pt \
    system.guidances.local.guidance.weights=$hub/sd-v2.1-base-4view-ipmv-local.pt \
    system.prompt_processor.image_path="$1" system.prompt_processor.prompt="$2"

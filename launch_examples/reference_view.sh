#!/usr/bin/env bash
# The small model, and the picture itself seen from its own camera: PICTURE CAPTION AZIMUTH (degrees from the object's front)
set -euo pipefail
cd "$(dirname "$0")/.."
exec python launch.py --config imagedream-toybox.yaml --train \
    system.prompt_processor.image_path="${1:-launch_examples/robot.png}" \
    system.prompt_processor.prompt="${2:-a toy}" \
    "system.guidances=[{guidance_type: imagedream-reference-guidance, guidance: {azimuth_deg: ${3:-0.0}}, weight: 100.0}]"

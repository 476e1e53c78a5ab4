#!/usr/bin/env bash
# The small model, and the picture itself seen from its own camera: PICTURE CAPTION AZIMUTH (degrees from the object's front;
# without it the camera is estimated, from what the optimisation has made by then)
set -euo pipefail
cd "$(dirname "$0")/.."
camera="camera: estimate"
if [[ $# -ge 3 ]]; then camera="azimuth_deg: $3"; fi
exec python launch.py --config imagedream-toybox.yaml --train \
    system.prompt_processor.image_path="${1:-launch_examples/robot.png}" \
    system.prompt_processor.prompt="${2:-a toy}" \
    "system.prompt_camera.steps=[60,120,180,210]" \
    "system.guidances=[{guidance_type: imagedream-reference-guidance, guidance: {$camera}, weight: 300.0}]"

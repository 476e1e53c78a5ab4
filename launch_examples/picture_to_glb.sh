#!/usr/bin/env bash
# A picture becomes a textured GLB with the small model that ships: PICTURE CAPTION
set -euo pipefail
cd "$(dirname "$0")/.."
exec python launch.py --config imagedream-toybox.yaml --train \
    system.prompt_processor.image_path="${1:-launch_examples/robot.png}" \
    system.prompt_processor.prompt="${2:-a toy}"

#!/usr/bin/env bash
# Train the small model that ships further on a folder of meshes, half of each batch, and measure it. Resumes where it stopped.
#   launch_examples/train_on_real_objects.sh MESHES SPLIT.csv [CAPTIONS.csv]      SPLIT.csv: launch_examples/split_objects.py
set -euo pipefail
meshes=$(realpath "$1") split=$(realpath "$2") captions=${3:-auto}
[[ $captions == auto ]] || captions=$(realpath "$captions")
cd "$(dirname "$0")/.."
python -m imagedream render "$meshes" --captions "$captions" --only "$split:train" --out data/real/train \
    --size 64 --views 16 --rings 2 --elevation-deg 0 20 --fov-y-deg 45 50 --relative-distance 0.71 0.75 --light prompts
python -m imagedream train --config configs/train/toybox-decoder.yaml
python -m imagedream train --config configs/train/toybox-real.yaml
# the mean with the weights that it started from keeps what they know of toys
python -m imagedream assemble --network outputs/train/toybox-real --average toybox --out outputs/toybox-real \
    --autoencoder outputs/train/toybox-decoder \
    --guidance-scale 1 --refine-strength 0.5 --num-inference-steps 10
for weights in toybox outputs/toybox-real; do
    python -m imagedream evaluate views --weights "$weights" --n 32 --out "outputs/measured/$weights/toys"
    python -m imagedream evaluate views --weights "$weights" --n 48 --out "outputs/measured/$weights/held-out" \
        --meshes "$meshes" --mesh-captions "$captions" --only "$split:held-out"
done
for what in toys held-out; do
    python -m imagedream evaluate compare outputs/measured/{toybox,outputs/toybox-real}/$what
done

#!/usr/bin/env bash
# A training run on several devices of one or of several machines; the same command again resumes where it stopped.
#   one machine:        launch_examples/train_torchrun.sh configs/train/full-pixel.yaml
#   each of 4 machines: NODES=4 MASTER=node0:29500 launch_examples/train_torchrun.sh configs/train/full-pixel.yaml
# Without machines of its own kind it runs anywhere: DEVICES=2 ... configs/train/toybox-diffusion.yaml (processes on a CPU).
# All that follows the config is passed on: data.batch_size=8 out=...
set -euo pipefail
cd "$(dirname "$0")/.."
CONFIG=${1:?name a config, such as configs/train/full-pixel.yaml}
NODES=${NODES:-1}
DEVICES=${DEVICES:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
if ((DEVICES < 1)); then DEVICES=1; fi
export PYTHONPATH="custom/threestudio-imagedream${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
RENDEZVOUS=(--standalone)
if ((NODES > 1)); then RENDEZVOUS=(--rdzv-backend c10d --rdzv-endpoint "${MASTER:?HOST:PORT of the first machine}"); fi
exec torchrun --nnodes "$NODES" --nproc-per-node "$DEVICES" "${RENDEZVOUS[@]}" \
    -m imagedream train --config "$CONFIG" nodes="$NODES" devices="$DEVICES" "${@:2}"

#!/usr/bin/env bash
# A training run under SLURM: sbatch [--nodes 2] launch_examples/train_slurm.sh configs/train/full-pixel.yaml [key=value ...]
# Five minutes before the time is over SLURM sends SIGUSR1: the run writes a checkpoint and puts itself in the queue again.
#SBATCH --job-name=imagedream
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=outputs/slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start me with sbatch from the repository}"
CONFIG=${1:?name a config, such as configs/train/full-pixel.yaml}
export PYTHONPATH="custom/threestudio-imagedream${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
# one task a device; Lightning reads ranks and addresses from SLURM's environment
exec srun python -m imagedream train --config "$CONFIG" \
    nodes="$SLURM_NNODES" devices="$SLURM_NTASKS_PER_NODE" "${@:2}"

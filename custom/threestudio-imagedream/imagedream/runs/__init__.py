"""Keeping a run alive: whole files, checkpoints, signals, seeds, records. Used by trainer, extension and batch."""

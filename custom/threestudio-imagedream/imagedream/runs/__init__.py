"""Keeping a run alive: whole files, checkpoints, signals, random numbers, disk space, records, one-line errors.

The trainer, the extension and the batch use this room, whatever host runs them.
"""

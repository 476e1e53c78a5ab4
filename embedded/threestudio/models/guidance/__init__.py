"""Guidance by diffusion models of the diffusers library."""

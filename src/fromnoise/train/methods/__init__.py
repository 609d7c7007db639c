"""Training methods, one file each."""

from fromnoise.train.methods.diffusion import Diffusion

__all__ = ["Diffusion"]

"""Training methods, one file each."""

from fromnoise.train.methods.diffusion import Diffusion
from fromnoise.train.methods.method import Method

__all__ = ["Diffusion", "Method"]

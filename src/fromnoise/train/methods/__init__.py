"""Training methods, one file each."""

from fromnoise.train.methods.diffusion import Diffusion
from fromnoise.train.methods.method import Method
from fromnoise.train.methods.reconstruction import Reconstruct

METHODS: dict[str, type[Method]] = {"diffusion": Diffusion, "autoencoder": Reconstruct}  # by the kind of the recipe

__all__ = ["METHODS", "Diffusion", "Method", "Reconstruct"]

"""Denoisers and guidance."""

from fromnoise.denoise.denoiser import Denoise, Denoiser
from fromnoise.denoise.guidance import classifier_free

__all__ = ["Denoise", "Denoiser", "classifier_free"]

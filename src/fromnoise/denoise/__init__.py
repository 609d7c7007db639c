"""Denoisers, guidance, and how likely a denoiser finds data."""

from fromnoise.denoise.denoiser import Denoise, Denoiser
from fromnoise.denoise.guidance import classifier_free
from fromnoise.denoise.likelihood import Estimate, bits_per_dim, log_likelihood, variational_bound

__all__ = ["Denoise", "Denoiser", "Estimate", "bits_per_dim", "classifier_free", "log_likelihood", "variational_bound"]

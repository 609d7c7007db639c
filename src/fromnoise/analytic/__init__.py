"""Distributions for which everything about diffusion is known: the test-bed of solvers, guidance and metrics."""

from fromnoise.analytic.frames import GaussianFrames
from fromnoise.analytic.mixture import GaussianMixture
from fromnoise.analytic.ode import ode_map
from fromnoise.analytic.presets import PRESETS, anisotropic, grid25, ring

__all__ = ["PRESETS", "GaussianFrames", "GaussianMixture", "anisotropic", "grid25", "ode_map", "ring"]

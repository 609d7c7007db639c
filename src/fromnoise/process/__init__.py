"""Noise processes: paths, predictions, time laws and the training objective."""

from fromnoise.process.gaussian import GaussianPath, expand
from fromnoise.process.objective import Objective
from fromnoise.process.paths import EDM, VE, VP, Cosine, Flow, SubVP, Trigonometric
from fromnoise.process.predictions import Prediction, convert, error_scale, from_x0, target, to_x0
from fromnoise.process.tables import DDPM, ScaledLinear
from fromnoise.process.times import LogNormal, Times, Uniform
from fromnoise.process.wrappers import Path, Shifted, ZeroTerminal, shift_of_size, shift_of_tokens

__all__ = [
    "DDPM", "EDM", "VE", "VP", "Cosine", "Flow", "GaussianPath", "LogNormal", "Objective", "Path", "Prediction",
    "ScaledLinear", "Shifted", "SubVP", "Times", "Trigonometric", "Uniform", "ZeroTerminal",
    "convert", "error_scale", "expand", "from_x0", "shift_of_size", "shift_of_tokens", "target", "to_x0",
]

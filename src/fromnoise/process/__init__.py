"""Noise processes: paths, predictions, time laws and the training objective."""

from fromnoise.process.objective import Objective
from fromnoise.process.paths import Cosine, Flow, Path, expand
from fromnoise.process.predictions import Prediction, convert, error_scale, from_x0, target, to_x0
from fromnoise.process.times import LogNormal, Times, Uniform

__all__ = [
    "Cosine", "Flow", "LogNormal", "Objective", "Path", "Prediction", "Times", "Uniform",
    "convert", "error_scale", "expand", "from_x0", "target", "to_x0",
]

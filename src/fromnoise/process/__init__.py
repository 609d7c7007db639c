"""Noise processes: paths, predictions, time laws, weightings, the training objective, and tokens."""

from fromnoise.process.discrete import MaskedTokens, TokenDenoise, TokenProcess, Tokens, UniformTokens, token_bound
from fromnoise.process.effective import describe_weighting, effective_weighting, plot_weightings
from fromnoise.process.ending import apart_at_end
from fromnoise.process.frames import Clocks, Frames
from fromnoise.process.gaussian import GaussianPath, expand
from fromnoise.process.objective import Objective
from fromnoise.process.paths import EDM, VE, VP, Cosine, Flow, SubVP, Trigonometric
from fromnoise.process.predictions import Prediction, convert, error_scale, from_x0, target, to_x0, x0_weights
from fromnoise.process.tables import DDPM, ScaledLinear
from fromnoise.process.times import CosMap, LogNormal, LogUniform, Mode, Times, Uniform
from fromnoise.process.token_samplers import ancestral, by_confidence
from fromnoise.process.upsampling import Upsampling
from fromnoise.process.variance import LossVariance
from fromnoise.process.weightings import P2, EDMWeighting, Elbo, Implied, Kept, MinSNR, Sigmoid, Simple, Weighting
from fromnoise.process.wrappers import Path, Shifted, ZeroTerminal, shift_of_size, shift_of_tokens

__all__ = [
    "DDPM",
    "EDM",
    "P2",
    "VE",
    "VP",
    "Clocks",
    "CosMap",
    "Cosine",
    "EDMWeighting",
    "Elbo",
    "Flow",
    "Frames",
    "GaussianPath",
    "Implied",
    "Kept",
    "LogNormal",
    "LogUniform",
    "LossVariance",
    "MaskedTokens",
    "MinSNR",
    "Mode",
    "Objective",
    "Path",
    "Prediction",
    "ScaledLinear",
    "Shifted",
    "Sigmoid",
    "Simple",
    "SubVP",
    "Times",
    "TokenDenoise",
    "TokenProcess",
    "Tokens",
    "Trigonometric",
    "Uniform",
    "UniformTokens",
    "Upsampling",
    "Weighting",
    "ZeroTerminal",
    "ancestral",
    "apart_at_end",
    "by_confidence",
    "convert",
    "describe_weighting",
    "effective_weighting",
    "error_scale",
    "expand",
    "from_x0",
    "plot_weightings",
    "shift_of_size",
    "shift_of_tokens",
    "target",
    "to_x0",
    "token_bound",
    "x0_weights",
]

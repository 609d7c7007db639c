"""Denoisers, guidance from denoisers to a denoiser, and how likely a denoiser finds data."""

from fromnoise.denoise.acting import acting
from fromnoise.denoise.cached import Cached
from fromnoise.denoise.choice import APG, CFG, CFGZero, Guidance, Guided, Normed
from fromnoise.denoise.denoiser import Denoise, Denoiser
from fromnoise.denoise.experts import experts
from fromnoise.denoise.guidance import (
    autoguidance,
    classifier_free,
    classifier_guided,
    gradient_of,
    mixed,
    zero_init,
)
from fromnoise.denoise.history import blurred, by_history
from fromnoise.denoise.inpaint import measured, reconstructed, replaced, start_from
from fromnoise.denoise.keeping import Held, Keep, Measured, Reconstructed, Replaced
from fromnoise.denoise.likelihood import Estimate, bits_per_dim, dequantised, log_likelihood, variational_bound
from fromnoise.denoise.passes import Counted, passes, under
from fromnoise.denoise.perturbed import path_dropped, perturbed
from fromnoise.denoise.rescheduled import rescheduled
from fromnoise.denoise.rules import Rule, cfg_zero, in_space, linear, normed, optimised, projected, rescaled
from fromnoise.denoise.schedule import Schedule, scale_of
from fromnoise.denoise.self_conditioned import SelfConditioned
from fromnoise.denoise.threshold import dynamic_threshold, static_threshold

__all__ = [
    "APG", "CFG", "CFGZero", "Cached", "Counted", "Denoise", "Denoiser", "Estimate", "Guidance", "Guided", "Held",
    "Keep", "Measured", "Normed", "Reconstructed", "Replaced", "Rule", "Schedule", "SelfConditioned", "acting",
    "autoguidance",
    "bits_per_dim", "blurred", "by_history", "cfg_zero", "classifier_free", "classifier_guided", "dequantised",
    "dynamic_threshold", "experts", "gradient_of", "in_space", "linear", "log_likelihood", "measured", "mixed",
    "normed", "optimised", "passes", "path_dropped", "perturbed", "projected", "reconstructed", "replaced",
    "rescaled", "rescheduled", "scale_of", "start_from", "static_threshold", "under", "variational_bound",
    "zero_init",
]

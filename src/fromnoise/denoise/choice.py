"""Classifier-free guidance as a spec: what a recipe or a command line can hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fromnoise.config import spec
from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.guidance import classifier_free, zero_init
from fromnoise.denoise.rules import Rule, cfg_zero, linear, projected, rescaled
from fromnoise.denoise.schedule import Schedule
from fromnoise.denoise.threshold import dynamic_threshold, static_threshold
from fromnoise.process import GaussianPath
from fromnoise.types import Condition


@spec
class CFG:
    """u + s (c - u) (Ho and Salimans 2022)."""

    kind: Literal["cfg"] = "cfg"

    def rule(self, path: GaussianPath) -> Rule:
        return linear

    def wrap(self, denoise: Denoise, path: GaussianPath) -> Denoise:
        return denoise


@spec
class CFGZero:
    """CFG-Zero* (Fan et al. 2025): u scaled to fit c, and no movement at first."""

    kind: Literal["cfg_zero"] = "cfg_zero"
    zero_above: Annotated[float, Field(ge=0, le=1)] = 0.96
    """x stays where it is at times above this; 1 is never."""

    def rule(self, path: GaussianPath) -> Rule:
        return cfg_zero(path)

    def wrap(self, denoise: Denoise, path: GaussianPath) -> Denoise:
        return zero_init(denoise, path, self.zero_above)


@spec
class APG:
    """Adaptive projected guidance (Sadat et al. 2024)."""

    kind: Literal["apg"] = "apg"
    eta: float = 0.0
    """Share kept of the part of c - u that lies along c and saturates."""
    norm: Annotated[float, Field(gt=0)] | None = None
    """Length of c - u, over all values of a sample, to which a longer one is shortened."""
    momentum: float = 0.0
    """Factor on what was added by the evaluation before; the authors' is negative."""

    def rule(self, path: GaussianPath) -> Rule:
        return projected(self.eta, self.norm, self.momentum)

    def wrap(self, denoise: Denoise, path: GaussianPath) -> Denoise:
        return denoise


Method = Annotated[CFG | CFGZero | APG, Field(discriminator="kind")]


@spec
class Guidance(Schedule):
    """How strong guidance is at each time, what it does with c and u, and what is done with x0 afterwards."""

    method: Method = CFG()
    rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the standard deviation of x0 is brought back to that of c (Lin et al. 2023)."""
    threshold: Literal["none", "static", "dynamic"] = "none"
    """Whether x0 is kept in [-1, 1] by cutting it off, or by Imagen's percentile; for models of pixels only."""
    percentile: Annotated[float, Field(gt=0, le=1)] = 0.995
    """The percentile of the dynamic threshold."""
    max_batch: Annotated[int, Field(gt=0)] | None = None
    """Most samples in one network call; by default both passes are one call."""

    def of(self, denoise: Denoise, null: Condition, path: GaussianPath) -> Denoise:
        """The guided denoiser, for one solve: a method with momentum remembers."""
        rule = self.method.rule(path)
        if self.rescale:
            rule = rescaled(self.rescale, rule)
        guided = classifier_free(denoise, null, self, rule=rule, max_batch=self.max_batch)
        guided = self.method.wrap(guided, path)
        if self.threshold == "static":
            return static_threshold(guided)
        return dynamic_threshold(guided, self.percentile) if self.threshold == "dynamic" else guided

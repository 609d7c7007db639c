"""Classifier-free guidance as a spec: what a recipe or a command line can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from fromnoise.config import Short, spec, to_dict
from fromnoise.denoise.denoiser import Denoise
from fromnoise.denoise.guidance import autoguidance, classifier_free, zero_init
from fromnoise.denoise.rules import Rule, cfg_zero, linear, normed, projected, rescaled
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


@spec
class Normed:
    """Guided velocities as long as those of c, in each square (Qwen-Image) or row (Lumina 2) of the picture."""

    kind: Literal["normed"] = "normed"
    patch: Annotated[int, Field(ge=1)] | None = 2
    """Side of a square, in latents; none for rows of each channel."""

    def rule(self, path: GaussianPath) -> Rule:
        return normed(path, self.patch)

    def wrap(self, denoise: Denoise, path: GaussianPath) -> Denoise:
        return denoise


Method = Annotated[CFG | CFGZero | APG | Normed, Field(discriminator="kind")]


Strength = Annotated[float, Field(ge=0)]


@spec
class Guidance(Schedule):
    """How strong guidance is at each time, what it does with c and u, and what is done with x0 afterwards."""

    scale: Strength = 2.0
    """The scale at t = 1, and at every time unless clean is given; 1 is no guidance."""
    clean: Strength | None = None
    """The scale at t = 0, where it is not that of t = 1 (Wang et al. 2024 let it rise from noise to clean)."""
    method: Method = CFG()
    """What is done with the difference of c and u."""
    rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the standard deviation of x0 is brought back to that of c (Lin et al. 2023)."""
    threshold: Literal["none", "static", "dynamic"] = "none"
    """Whether x0 is kept in [-1, 1] by cutting it off, or by Imagen's percentile; for models of pixels only."""
    percentile: Annotated[float, Field(gt=0, le=1)] = 0.995
    """The percentile of the dynamic threshold."""
    guide: str | None = None
    """Run folder of a worse model whose answer to the prompt takes the place of u (Karras et al. 2024)."""
    max_batch: Annotated[int, Field(gt=0)] | None = None
    """Most samples in one network call; by default both passes are one call."""

    @property
    def strongest(self) -> float:
        return max(self.scale, self.scale if self.clean is None else self.clean)

    @property
    def inert(self) -> bool:
        """Whether the scale is 1 at all times, so that c is all that counts."""
        return self.scale == 1 and self.clean in (None, 1)

    def of(self, denoise: Denoise, null: Condition, path: GaussianPath, *, weak: Denoise | None = None,
           others: Sequence[tuple[Condition, float]] = ()) -> Denoise:
        """The guided denoiser, for one solve: a method with momentum remembers.

        null: the condition of u;  weak: the denoiser of ``guide``, which then is asked for u in its place;
        others: conditions to compose with, see ``classifier_free``.  ValueError for a guide without its denoiser,
        and the other way round, and for a guide beside others.
        """
        if (weak is None) != (self.guide is None):
            raise ValueError("a guide is a run folder, whose denoiser is to be given as weak")
        rule = self.method.rule(path)
        if self.rescale:
            rule = rescaled(self.rescale, rule)
        if weak is None:
            guided = classifier_free(denoise, null, self, others=others, rule=rule, max_batch=self.max_batch)
        elif others:
            raise ValueError("composed conditions are guided by the unconditional one, not by a guide")
        else:
            guided = autoguidance(denoise, weak, self, rule=rule)
        guided = self.method.wrap(guided, path)
        if self.threshold == "static":
            return static_threshold(guided)
        return dynamic_threshold(guided, self.percentile) if self.threshold == "dynamic" else guided

    def idle(self, others: bool = False) -> dict[str, str]:
        """The fields, dotted, that the other choices leave without effect, and why.

        others: whether prompts are composed, for which the unconditional one counts at any scale.
        """
        found = {}
        if self.inert:
            still = "guidance is 1 at all times"
            found |= dict.fromkeys(("interval", "rescale", "guide", *(() if others else ("max_batch",))), still)
            if not isinstance(self.method, CFGZero):
                found |= dict.fromkeys((f"method.{field}" for field in to_dict(self.method)), still)
        if self.clean is None:
            found["shape"] = "the scale is the same at all times, since clean is not given"
        if self.threshold != "dynamic":
            found["percentile"] = f"the threshold is {self.threshold}"
        if self.guide is not None and not self.inert:
            found["max_batch"] = "a guide is a call of its own"
        return found

    def words(self) -> str:
        """The scale, and whatever is not as usual: "3, interval 0.2 0.8, method.kind apg"."""
        usual, own = _flat(to_dict(type(self)())), _flat(to_dict(self))
        return ", ".join([f"{self.scale:g}", *(f"{name} {value}" for name, value in own.items()
                                               if name != "scale" and value != usual.get(name))])


Guided = Annotated[Guidance, Short("scale")]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as dotted names and words."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            words = value if isinstance(value, list) else [value]
            found[prefix + name] = " ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words)
    return found

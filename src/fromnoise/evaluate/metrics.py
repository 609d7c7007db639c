"""The metrics of two sets of points, each a name, a measure and what is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fromnoise.evaluate.c2st import c2st
from fromnoise.evaluate.distances import (
    frechet,
    frechet_infinity,
    memorisation,
    mode_chi_squared,
    mode_total_variation,
    near_copies,
    sliced_wasserstein,
)
from fromnoise.evaluate.points import Points, Within

Better = Literal["lower", "higher", "near"]
SPACES = ("raw", "whitened", "features")


@dataclass(frozen=True)
class Metric:
    """One measurement of a generated set against a real one.

    measure: of (generated, real);  better: "near" is near to what real data show;  spaces: those it makes sense in;
    needs: the field of ``Points`` without which it cannot be measured;  step: what one point of n changes, times n,
    for those that are shares of points: no null can be known more exactly.
    """

    name: str
    measure: Callable[[Points, Points], float]
    better: Better = "lower"
    spaces: tuple[str, ...] = SPACES
    needs: str = "x"
    step: float = 0.0

    def __call__(self, generated: Points | Tensor, real: Points | Tensor) -> float:
        """The measure of two sets of points, or of tensors ``[n, D]`` and ``[m, D]`` where it needs no more."""
        made, true = (x if isinstance(x, Points) else Points(x) for x in (generated, real))
        for side in (made, true):
            if getattr(side, self.needs) is None:
                raise ValueError(f"{self.name} needs Points with {self.needs}")
        return self.measure(made, true)

    def worse(self, difference: float) -> float:
        """A difference to real data with the sign that says worse."""
        return {"lower": difference, "higher": -difference, "near": abs(difference)}[self.better]


def _both(generated: Points, real: Points) -> tuple[Within, Within]:
    """Both sets within themselves, with the kernel of the real one."""
    return generated.within(real.kernel), real.within(real.kernel)


def energy_distance(generated: Points, real: Points) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Szekely and Rizzo 2013), over pairs of different points: unbiased."""
    made, true = _both(generated, real)
    return 2 * generated.against(real).distance - made.distance - true.distance


def mmd(generated: Points, real: Points) -> float:
    """Squared maximum mean discrepancy, E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al. 2012, lemma 6).

    The kernel is the mean of RBF kernels around the median distance of real points.  Unbiased.
    """
    made, true = _both(generated, real)
    return made.rbf + true.rbf - 2 * generated.against(real).rbf


def kid(generated: Points, real: Points) -> float:
    """The same with the kernel (x y / D + 1)^3: kernel inception distance (Binkowski et al. 2018), of any features."""
    made, true = _both(generated, real)
    return made.cubic + true.cubic - 2 * generated.against(real).cubic


def nll_difference(generated: Points, real: Points) -> float:
    """Mean exact negative log-likelihood of generated points less that of real ones, in nats."""
    assert generated.log_prob is not None
    assert real.log_prob is not None
    return float(real.log_prob.double().mean() - generated.log_prob.double().mean())


def _on(measure: Callable[[Tensor, Tensor], float], what: str = "x") -> Callable[[Points, Points], float]:
    """A measure of one field of the points alone."""
    return lambda generated, real: measure(getattr(generated, what), getattr(real, what))


def _share(name: str) -> Callable[[Points, Points], float]:
    return lambda generated, real: getattr(generated.against(real), name)


METRICS: dict[str, Metric] = {metric.name: metric for metric in (
    Metric("energy distance", energy_distance),
    Metric("MMD", mmd),
    Metric("KID", kid),
    Metric("sliced Wasserstein", _on(sliced_wasserstein)),
    Metric("Frechet", _on(frechet)),
    Metric("Frechet, infinite", _on(frechet_infinity)),
    Metric("precision", _share("precision"), "higher", step=1),
    Metric("recall", _share("recall"), "higher", step=1),
    Metric("density", _share("density"), "higher", step=1),
    Metric("coverage", _share("coverage"), "higher", step=1),
    Metric("C2ST", _on(c2st)),
    Metric("mode frequencies", _on(mode_total_variation, "mode"), spaces=("raw",), needs="mode", step=1),
    Metric("mode counts", _on(mode_chi_squared, "mode"), spaces=("raw",), needs="mode"),
    Metric("NLL difference", nll_difference, "near", spaces=("raw",), needs="log_prob"),
    Metric("nearest training example", _on(memorisation, "nearest"), "higher", ("raw", "features"), "nearest"),
    Metric("near copies", _on(lambda a, b: near_copies(a, b)[0], "nearest"), spaces=("raw", "features"),
           needs="nearest", step=1),
)}


def nearest_distance(x: Tensor, among: Tensor) -> Tensor:
    """Euclidean distance ``[n]`` of each point ``[n, D]`` to its nearest among ``[m, D]``, in bounded memory."""
    step = max(1, 2**22 // len(among))
    return torch.cat([torch.cdist(part, among).amin(1) for part in x.split(step)])

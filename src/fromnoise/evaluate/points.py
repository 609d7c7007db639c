"""Sets of points, and all that metrics ask of the distances between two sets, gathered in one pass.

A matrix of n x m distances is made a few rows at a time, small enough to stay in the cache, and is gone again
when its sums have been taken: every metric that is built on distances shares the pass, and memory does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

NEIGHBOURS = 5  # of the balls of precision, recall, density and coverage (Naeem et al. 2020, section 4)
BANDWIDTHS = (4.0, 2.0, 1.0, 0.5, 0.25)  # of the RBF kernels, relative to the median distance; each half the last
CACHED = 2**18  # entries of a distance matrix that are worked on at a time
SAMPLE = 1000  # points that the median distance is taken over


@dataclass(frozen=True, eq=False)
class Kernel:
    """What a reference set fixes for all that is compared with it.

    centre ``[D]``: its mean, subtracted before squared distances are taken as |x|^2 + |y|^2 - 2 xy, so that
    nothing cancels;  scale: median of the squared distance between two of its points.
    """

    centre: Tensor
    scale: float


@dataclass(frozen=True)
class Within:
    """Means over the pairs of different points of one set, and the distance ``[n]`` to the k-th neighbour."""

    distance: float
    rbf: float
    cubic: float
    radius: Tensor


@dataclass(frozen=True)
class Between:
    """Means over the pairs of a generated and a real point, and how their balls cover each other."""

    distance: float
    rbf: float
    cubic: float
    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, eq=False)
class Points:
    """n points of a space, and what is known about each.

    x ``[n, D]``, float32 or float64: distances are worked out in its dtype;  log_prob ``[n]``: exact log-likelihoods;
    mode ``[n]``: integers;  nearest ``[n]``: distance to the nearest training example.
    """

    x: Tensor
    log_prob: Tensor | None = None
    mode: Tensor | None = None
    nearest: Tensor | None = None
    _within: dict[Kernel, Within] = field(default_factory=dict, init=False, repr=False)
    _between: dict[Points, Between] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> Points:
        """The points of these indices."""
        parts = (part if part is None else part[index] for part in (self.log_prob, self.mode, self.nearest))
        return Points(self.x[index], *parts)

    @cached_property
    def kernel(self) -> Kernel:
        """The centre and the bandwidth that these points, as a reference, set."""
        some = self.x[:: -(-len(self) // SAMPLE)]
        return Kernel(self.x.mean(0), max(float(torch.pdist(some).median()) ** 2, 1e-30))

    def within(self, kernel: Kernel) -> Within:
        if kernel not in self._within:
            self._within[kernel] = within(self.x, kernel)
        return self._within[kernel]

    def against(self, real: Points) -> Between:
        """What these points, as generated ones, are beside real ones."""
        if real not in self._between:
            self._between[real] = between(self, real)
        return self._between[real]


def _rows(a: Tensor, b: Tensor, kernel: Kernel) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, squared distances, inner products), each ``[rows, m]``, a few rows of ``a`` after another."""
    a_centred, b_centred = a - kernel.centre, b - kernel.centre
    a_square, b_square = a_centred.square().sum(1, keepdim=True), b_centred.square().sum(1)
    a_mean, b_mean = a_centred @ kernel.centre, b @ kernel.centre
    step = max(1, CACHED // len(b))
    for start in range(0, len(a), step):
        rows = slice(start, min(start + step, len(a)))
        product = a_centred[rows] @ b_centred.T
        square = (a_square[rows] + b_square).sub_(product, alpha=2).clamp_(min=0)
        yield rows, square, product.add_(a_mean[rows, None]).add_(b_mean)


def _rbf(square: Tensor, scale: float) -> Tensor:
    """Mean of RBF kernels exp(-d^2 / (2 s^2 scale)) over the bandwidths s, in place.

    Halving s takes the kernel to its fourth power, so that one exponential serves all.
    """
    kernel = square.mul_(-0.5 / (scale * BANDWIDTHS[0] ** 2)).exp_()
    total = kernel.clone()
    for _ in BANDWIDTHS[1:]:
        total.add_(kernel.square_().square_())
    return total.div_(len(BANDWIDTHS))


def _cubic(product: Tensor, dim: int) -> Tensor:
    """KID's polynomial kernel (x y / D + 1)^3 (Binkowski et al. 2018, section 4), in place."""
    base = product.div_(dim).add_(1)
    return base * base * base


def within(x: Tensor, kernel: Kernel, k: int = NEIGHBOURS) -> Within:
    """Means over the n (n - 1) pairs of different points of ``x`` ``[n, D]``, so that each is unbiased."""
    n, dim = x.shape
    sums, radius = torch.zeros(3, dtype=torch.float64), x.new_empty(n)
    for rows, square, product in _rows(x, x, kernel):
        square.diagonal(rows.start).zero_()
        distance = square.sqrt()
        radius[rows] = distance.topk(min(k + 1, n), largest=False).values[:, -1]
        cubic = _cubic(product, dim)
        cubic.diagonal(rows.start).zero_()
        rbf = _rbf(square, kernel.scale)
        rbf.diagonal(rows.start).zero_()
        sums += torch.stack([part.sum(1).double().sum() for part in (distance, rbf, cubic)])
    distance, rbf, cubic = (sums / (n * (n - 1))).tolist()
    return Within(distance, rbf, cubic, radius)


def between(generated: Points, real: Points, k: int = NEIGHBOURS) -> Between:
    """Means over all pairs, and precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    A generated point is precise in the ball around any real point that reaches to that point's k-th real
    neighbour; a real one is recalled in such a ball of generated points, and covered where its own ball holds
    a generated point.  Density counts the balls that a generated point lies in, as a share of k.
    """
    kernel = real.kernel
    reach, made = real.within(kernel).radius, generated.within(kernel).radius
    (n, dim), m = generated.x.shape, len(real)
    sums, balls, precise = torch.zeros(3, dtype=torch.float64), 0, 0
    covered, recalled = (torch.zeros(m, dtype=torch.bool) for _ in range(2))
    for rows, square, product in _rows(generated.x, real.x, kernel):
        distance = square.sqrt()
        inside = distance <= reach
        balls += int(inside.sum())
        precise += int(inside.any(1).sum())
        covered |= inside.any(0)
        recalled |= (distance <= made[rows, None]).any(0)
        parts = distance, _rbf(square, kernel.scale), _cubic(product, dim)
        sums += torch.stack([part.sum(1).double().sum() for part in parts])
    distance, rbf, cubic = (sums / (n * m)).tolist()
    recall, coverage = float(recalled.double().mean()), float(covered.double().mean())
    return Between(distance, rbf, cubic, precise / n, recall, balls / (k * n), coverage)

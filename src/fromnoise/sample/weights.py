"""Weights of a step: exact integrals of the polynomial through the targets that are known.

    x' = (S'/S) x + S' int_m^m' F dm,        F(u) = sum_j F_j l_j(u)   (Lagrange)
    W_j = S' int l_j(u(q)) (dm/dq) dq,       q = log(sigma / alpha)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fromnoise.process import GaussianPath
from fromnoise.sample.bases import Basis, Variable, variable

PANEL = 2.0  # widest stretch of q for one Gauss-Legendre rule of 24 nodes


@dataclass(frozen=True)
class Point:
    """A time on a path: alpha, sigma and q = log(sigma / alpha), infinite at the ends."""

    t: float
    alpha: float
    sigma: float
    q: float


def points(path: GaussianPath, times: Tensor) -> list[Point]:
    """Points of a path at float64 times."""
    alpha, sigma = path.alpha(times).tolist(), path.sigma(times).tolist()
    q = (-path.logsnr(times) / 2).tolist()
    return [Point(*values) for values in zip(times.tolist(), alpha, sigma, q, strict=True)]


@dataclass(frozen=True)
class Integrator:
    """The weights of steps on a path, for a basis and the variable of the polynomial."""

    path: GaussianPath
    basis: Basis
    variable: Variable = "logsnr"

    def keep(self, start: Point, end: Point) -> float:
        """S'/S: the share of x that stays."""
        if self.basis.target == "x0" and (end.sigma == 0 or start.alpha == 0):
            return 0.0 if end.sigma == 0 or self.basis.tau or self.basis.extended else end.sigma / start.sigma
        return float(self._scale(end) / self._scale(start))

    def total(self, start: Point, end: Point) -> float:
        """S' (m' - m): the weight of a constant target."""
        if self.basis.target == "x0":  # as alpha' (1 - g(r')/g(r)), which is right at both ends
            kept = self.keep(start, end) * start.alpha
            return end.alpha - kept
        m = self.basis.measure(torch.tensor([start.q, end.q], dtype=torch.float64))
        return float(self._scale(end) * (m[1] - m[0]))

    def weights(self, start: Point, end: Point, nodes: list[Point]) -> list[float]:
        """W_j for the targets at ``nodes``; they sum to ``total``."""
        if len(nodes) == 1:
            return [self.total(start, end)]
        known = self.where(nodes)
        if self.basis.target == "x0" and end.sigma == 0:  # all of the weight lies at the end
            return (end.alpha * lagrange(known, self.where([end]))[:, 0]).tolist()
        q, weight = quadrature(start.q, end.q)
        slope = self.basis.slope(q) * weight * self._scale(end)
        return (lagrange(known, self._variable(q)) @ slope).tolist()

    def finite(self, point: Point) -> bool:
        """Whether the variable is finite there, so that the point can be a node."""
        return math.isfinite(float(self.where([point])))

    def where(self, nodes: list[Point]) -> Tensor:
        """The variable at points."""
        if self.variable == "t":
            return torch.tensor([p.t for p in nodes], dtype=torch.float64)
        return self._variable(torch.tensor([p.q for p in nodes], dtype=torch.float64))

    def _variable(self, q: Tensor) -> Tensor:
        return variable(self.variable, q, self.path.time)

    def _scale(self, point: Point) -> Tensor:
        return self.basis.scale(torch.tensor(point.alpha, dtype=torch.float64),
                                torch.tensor(point.sigma, dtype=torch.float64))


def lagrange(nodes: Tensor, at: Tensor) -> Tensor:
    """``[nodes, at]``: the polynomials that are 1 at their own node and 0 at the others."""
    rows = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        rows.append(((at[None] - others[:, None]) / (node - others[:, None])).prod(0))
    return torch.stack(rows)


def quadrature(start: float, end: float) -> tuple[Tensor, Tensor]:
    """(nodes in q, weights) of the integral from ``start`` down to ``end``, either of which may be infinite."""
    if math.isinf(start) and math.isinf(end):
        (a, wa), (b, wb) = quadrature(start, 0.0), quadrature(0.0, end)
        return torch.cat([a, b]), torch.cat([wa, wb])
    nodes, weights = _legendre()
    if math.isinf(start) or math.isinf(end):
        # s = sigmoid(q) is finite; dq = ds / (s (1 - s)).  Two panels, the inner one near the infinite end.
        s0, s1 = _sigmoid(start), _sigmoid(end)
        middle = (s0 + s1) / 2
        parts = [(s0, middle), (middle, s1)]
        s = torch.cat([(a + b) / 2 + (b - a) / 2 * nodes for a, b in parts])
        w = torch.cat([(b - a) / 2 * weights for a, b in parts])
        return torch.logit(s), w / (s * (1 - s))
    count = max(1, math.ceil(abs(end - start) / PANEL))
    edges = torch.linspace(start, end, count + 1, dtype=torch.float64)
    half = (end - start) / (2 * count)
    q = ((edges[:-1] + edges[1:]) / 2)[:, None] + half * nodes
    return q.reshape(-1), (half * weights).expand_as(q).reshape(-1)


def _sigmoid(q: float) -> float:
    return 1 / (1 + math.exp(-q)) if q > -700 else 0.0


@lru_cache(maxsize=1)
def _legendre() -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(24)
    return torch.from_numpy(nodes), torch.from_numpy(weights)

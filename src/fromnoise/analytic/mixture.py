"""A mixture of Gaussians, and the closed form of what diffusion makes of it.

    p(x0) = sum_k w_k N(x0; mu_k, C_k)
    p(x_t) = sum_k w_k N(x_t; alpha mu_k, S_k),      S_k = alpha^2 C_k + sigma^2 I

With the responsibilities r_k(x_t) of the components of p(x_t), and everything else Gaussian in each,

    E[x0 | x_t]   = sum_k r_k (mu_k + alpha C_k S_k^-1 (x_t - alpha mu_k))
    E[eps | x_t]  = sum_k r_k  sigma S_k^-1 (x_t - alpha mu_k)
    score(x_t)    = -sum_k r_k  S_k^-1 (x_t - alpha mu_k)

Each C_k = U diag(c) U^T is decomposed once, so that S_k is diagonal in its basis at every t, and nothing is
inverted; all three are finite at t = 0 and t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fromnoise.process import GaussianPath, expand


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """K Gaussians in D dimensions, in float64.

    weights ``[K]``, positive (normalised here);  means ``[K, D]``;  covs ``[K, D, D]``, symmetric and positive
    semi-definite;  labels ``[K]``: the class of each component, by default its index.
    ValueError for shapes or values that cannot be.

    Points are ``[B, D]``, times ``[]`` or ``[B]``.
    """

    weights: Tensor
    means: Tensor
    covs: Tensor
    labels: Tensor | None = None  # never None once made

    def __post_init__(self):
        K, D = self.means.shape
        labels = torch.arange(K) if self.labels is None else torch.as_tensor(self.labels)
        for name, value in (("weights", self.weights.double()), ("means", self.means.double()),
                            ("covs", self.covs.double()), ("labels", labels)):
            object.__setattr__(self, name, value)
        if self.weights.shape != (K,) or self.covs.shape != (K, D, D) or labels.shape != (K,):
            raise ValueError(f"weights {tuple(self.weights.shape)}, covs {tuple(self.covs.shape)} and labels "
                             f"{tuple(labels.shape)} do not fit means {tuple(self.means.shape)}")
        if not bool((self.weights > 0).all()):
            raise ValueError("weights must be positive")
        if not torch.allclose(self.covs, self.covs.mT) or float(self.variances.min()) < 0:
            raise ValueError("covariances must be symmetric and positive semi-definite")
        object.__setattr__(self, "weights", self.weights / self.weights.sum())

    @staticmethod
    def isotropic(means: Tensor, std: float, weights: Tensor | None = None,
                  labels: Tensor | None = None) -> GaussianMixture:
        """Components of one standard deviation in every direction."""
        K, D = means.shape
        covs = torch.eye(D, dtype=torch.float64).expand(K, D, D) * std**2
        return GaussianMixture(torch.ones(K) if weights is None else weights, means, covs, labels)

    # ---- the mixture itself -----------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """(variances ``[K, D]``, axes ``[K, D, D]`` in columns) of the components."""
        values, vectors = torch.linalg.eigh(self.covs)
        tiny = values.abs() < 1e-14 * values.abs().amax(-1, keepdim=True)
        return torch.where(tiny, values.clamp(min=0), values), vectors

    @cached_property
    def _turned_means(self) -> Tensor:
        """``[K, D]``: the means in the axes of their components."""
        return torch.einsum("kde,kd->ke", self._eigen[1], self.means)

    @property
    def variances(self) -> Tensor:
        return self._eigen[0]

    @cached_property
    def mean(self) -> Tensor:
        """``[D]``."""
        return self.weights @ self.means

    @cached_property
    def cov(self) -> Tensor:
        """``[D, D]``, within and between components."""
        centred = self.means - self.mean
        return torch.einsum("k,kde->de", self.weights, self.covs) + torch.einsum(
            "k,kd,ke->de", self.weights, centred, centred)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(points ``[count, D]``, index ``[count]`` of the component each came from)."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.dim, generator=generator, dtype=torch.float64)
        return self.place(noise, which), which

    def place(self, noise: Tensor, which: Tensor) -> Tensor:
        """Standard normal ``noise`` ``[B, D]`` as points of the components ``which`` ``[B]``."""
        values, vectors = self._eigen
        return self.means[which] + torch.einsum("bde,be->bd", vectors[which], values[which].sqrt() * noise)

    def of_label(self, label: int) -> GaussianMixture:
        """The class-conditional mixture."""
        chosen = self.labels == label
        if not bool(chosen.any()):
            raise ValueError(f"no component has the label {label}")
        return GaussianMixture(self.weights[chosen], self.means[chosen], self.covs[chosen],
                               torch.as_tensor(self.labels)[chosen])

    def given(self, index: Sequence[int], values: Tensor) -> GaussianMixture:
        """p(the other coordinates | x0[index] = values ``[len(index)]``): exact inpainting.

        Each component is conditioned as Gaussians are, and weighed by how likely it finds the values.
        """
        seen = torch.as_tensor(list(index))
        rest = torch.as_tensor([i for i in range(self.dim) if i not in set(index)])
        away = values.double() - self.means[:, seen]
        block = self.covs[:, seen][:, :, seen]
        gain = torch.linalg.solve(block, self.covs[:, seen][:, :, rest]).mT  # C_rs C_ss^-1
        means = self.means[:, rest] + torch.einsum("krs,ks->kr", gain, away)
        covs = self.covs[:, rest][:, :, rest] - gain @ self.covs[:, seen][:, :, rest]
        chance = torch.distributions.MultivariateNormal(self.means[:, seen], block).log_prob(values.double())
        weights = torch.softmax(self.weights.log() + chance, 0).clamp(min=1e-300)
        return GaussianMixture(weights, means, (covs + covs.mT) / 2, self.labels)

    # ---- the mixture at time t --------------------------------------------------------------------

    def _at(self, x: Tensor, t: Tensor, path: GaussianPath) -> tuple[Tensor, ...]:
        """(alpha, sigma ``[B or 1, 1]``; ``[B, K, D]`` in the axes of each component: x - alpha mu, and diag S)."""
        t = t.double().reshape(-1, 1)
        alpha, sigma = path.alpha(t), path.sigma(t)
        values, vectors = self._eigen
        turned = torch.einsum("kde,bd->bke", vectors, x.double()) - alpha[..., None] * self._turned_means
        return alpha, sigma, turned, alpha[..., None] ** 2 * values + sigma[..., None] ** 2

    def log_joint(self, x: Tensor, t: Tensor, path: GaussianPath) -> Tensor:
        """``[B, K]``: log w_k N(x_t; alpha mu_k, S_k)."""
        _, _, turned, S = self._at(x, t, path)
        return self._log_joint(turned, S)

    def _log_joint(self, turned: Tensor, S: Tensor) -> Tensor:
        quadratic = (turned.square() / S).sum(-1) + S.log().sum(-1) + self.dim * math.log(2 * math.pi)
        return self.weights.log() - quadratic / 2

    def log_prob(self, x: Tensor, t: Tensor | float = 0.0, path: GaussianPath | None = None) -> Tensor:
        """log p_t(x) ``[B]``; of the data themselves unless a time and a path are given."""
        from fromnoise.process import Flow

        return self.log_joint(x, torch.as_tensor(t), path or Flow()).logsumexp(-1)

    def responsibilities(self, x: Tensor, t: Tensor | float = 0.0, path: GaussianPath | None = None) -> Tensor:
        """``[B, K]``: p(component | x_t)."""
        from fromnoise.process import Flow

        return self.log_joint(x, torch.as_tensor(t), path or Flow()).softmax(-1)

    def mode(self, x: Tensor) -> Tensor:
        """``[B]``: the component that most probably made each clean point."""
        return self.responsibilities(x).argmax(-1)

    def _expected(self, x: Tensor, t: Tensor, path: GaussianPath, what: str) -> Tensor:
        """A posterior mean ``[B, D]``."""
        alpha, sigma, turned, S = self._at(x, t, path)
        r = self._log_joint(turned, S).softmax(-1)
        values, vectors = self._eigen
        gain = alpha[..., None] * values / S if what == "x0" else sigma[..., None] / S if what == "eps" else -1 / S
        found = torch.einsum("kde,bke->bd", vectors, r[..., None] * gain * turned)
        return found + r @ self.means if what == "x0" else found

    def x0(self, x: Tensor, t: Tensor | float, path: GaussianPath) -> Tensor:
        """E[x0 | x_t = x] ``[B, D]``: the denoiser that a perfect network would be."""
        return self._expected(x, torch.as_tensor(t), path, "x0")

    def eps(self, x: Tensor, t: Tensor | float, path: GaussianPath) -> Tensor:
        """E[eps | x_t = x] ``[B, D]``."""
        return self._expected(x, torch.as_tensor(t), path, "eps")

    def score(self, x: Tensor, t: Tensor | float, path: GaussianPath) -> Tensor:
        """grad log p_t(x) ``[B, D]``."""
        return self._expected(x, torch.as_tensor(t), path, "score")

    def velocity(self, x: Tensor, t: Tensor | float, path: GaussianPath) -> Tensor:
        """dx/dt ``[B, D]`` of the probability-flow ODE: alpha' E[x0 | x] + sigma' E[eps | x]."""
        t = torch.as_tensor(t)
        clock = expand(t.double(), x)
        return path.alpha_dot(clock) * self.x0(x, t, path) + path.sigma_dot(clock) * self.eps(x, t, path)

    def posterior(self, x: Tensor, t: Tensor | float, path: GaussianPath,
                  generator: torch.Generator | None = None) -> Tensor:
        """One draw ``[B, D]`` of x0 from p(x0 | x_t = x), exactly: where SDE sampling from x_t leads."""
        alpha, sigma, turned, S = self._at(x, torch.as_tensor(t), path)
        values, vectors = self._eigen
        r = self._log_joint(turned, S).softmax(-1)
        which = torch.multinomial(r, 1, generator=generator)
        chosen = which[..., None].expand(-1, 1, self.dim)
        mean = (alpha[..., None] * values / S * turned).gather(1, chosen)[:, 0]
        variance = (sigma[..., None].square() * values / S).expand_as(turned).gather(1, chosen)[:, 0]
        draw = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
        return self.means[which[:, 0]] + torch.einsum("bde,be->bd", vectors[which[:, 0]], draw)

    def classifier(self, label: int, path: GaussianPath) -> Callable[[Tensor, Tensor], Tensor]:
        """grad_x log p(label | x_t) ``[B, D]`` as a function of (x, t): the exact guide."""
        inside = self.of_label(label)
        return lambda x, t: inside.score(x, t, path) - self.score(x, t, path)

    def denoiser(self, path: GaussianPath, label: int | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """``(x, t) -> E[x0 | x_t]`` for x of shape ``[B, ...]`` with D numbers each, in the dtype of x."""
        mixture = self if label is None else self.of_label(label)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            t = t.reshape(-1)[: len(x)] if t.ndim else t
            return mixture.x0(x.reshape(len(x), -1), t, path).to(x.dtype).reshape(x.shape)

        return denoise

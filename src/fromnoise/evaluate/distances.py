"""Distances between sets of features ``[n, D]``: Frechet, coverage, nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared 2-Wasserstein distance between the Gaussians fitted to two sets (Dowson and Landau 1982).

        |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2))

    The trace of the root is the sum of the singular values of the product of the centred data matrices,
    which stays exact where there are fewer samples than features.
    """
    a, b = a.double(), b.double()
    centred_a, centred_b = a - a.mean(0), b - b.mean(0)
    scale = ((len(a) - 1) * (len(b) - 1)) ** 0.5
    root = torch.linalg.svdvals(centred_a @ centred_b.T).sum() / scale if len(a) * len(b) <= 64 * a.shape[1] ** 2 \
        else torch.linalg.svdvals(_root(centred_a) @ _root(centred_b)).sum()
    trace = centred_a.square().sum() / (len(a) - 1) + centred_b.square().sum() / (len(b) - 1)
    return float((a.mean(0) - b.mean(0)).square().sum() + trace - 2 * root)


def _root(centred: Tensor) -> Tensor:
    """Symmetric square root of the covariance of centred data."""
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(centred) - 1))
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def coverage(generated: Tensor, real: Tensor, k: int = 5) -> float:
    """Share of real samples with a generated one inside the ball of their k-th real neighbour (Naeem et al. 2020)."""
    k = min(k, len(real) - 1)
    if k < 1 or not len(generated):
        return float("nan")
    radius = torch.cdist(real, real).topk(k + 1, largest=False).values[:, -1]
    return float((torch.cdist(real, generated).amin(1) <= radius).double().mean())


def nearest(samples: Tensor, among: Tensor) -> Tensor:
    """Euclidean distance ``[n]`` of each sample to its nearest neighbour."""
    return torch.cdist(samples.flatten(1).float(), among.flatten(1).float()).amin(1)


def memorisation(generated: Tensor, held_out: Tensor) -> float:
    """How near generated pictures lie to training ones, relative to held-out real pictures.

    Both are distances to the nearest training picture.  The ratio of their medians: about 1 is as new as
    real pictures are, near 0 is copying.
    """
    return float(generated.median() / held_out.median().clamp(min=1e-9))


def near_copies(generated: Tensor, held_out: Tensor) -> tuple[float, float]:
    """Share of generated, and of held-out, pictures that lie uncommonly near to a training picture.

    Both are distances to the nearest training picture; uncommon is what one in a hundred held-out pictures
    shows.  A median does not move while fewer than half are copies; this does.
    """
    bound = held_out.double().quantile(0.01)
    return float((generated < bound).double().mean()), float((held_out < bound).double().mean())

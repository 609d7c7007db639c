"""Distances between sets of features ``[n, D]``: Frechet, sliced Wasserstein, modes, nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
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
    root = torch.linalg.svdvals(centred_a @ centred_b.T).sum() / scale if len(a) * len(b) <= 4 * a.shape[1] ** 2 \
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


def frechet_infinity(a: Tensor, b: Tensor, sizes: int = 8, seed: int = 0) -> float:
    """Frechet distance at infinitely many samples (Chong and Forsyth 2020, section 4).

    The distance of n against n samples is too large by a term in 1 / n.  It is measured on random subsets of
    ``sizes`` sizes, from a quarter to all, and the line through them in 1 / n is followed to 0.  It may fall
    below 0 where there is no difference.
    """
    random = torch.Generator().manual_seed(seed)
    least = min(len(a), len(b))
    counts = torch.linspace(least / 4, least, sizes).round().int().clamp(min=2).tolist()
    found = [frechet(*(x[torch.randperm(len(x), generator=random)[:n]] for x in (a, b))) for n in counts]
    inverse = 1 / torch.tensor(counts, dtype=torch.float64)
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(inverse), inverse], 1), torch.tensor(found).double())
    return float(line.solution[0])


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 128, seed: int = 0) -> float:
    """1-Wasserstein distance along random directions, averaged (Rabin et al. 2011; Bonneel et al. 2015).

    In one dimension it is the area between the two quantile functions, which are steps: exact for any two sizes.
    """
    random = torch.Generator().manual_seed(seed)
    axes = F.normalize(torch.randn(a.shape[1], directions, generator=random, dtype=torch.float64), dim=0)
    a, b = ((x @ axes.to(x)).sort(0).values for x in (a, b))
    edges = torch.cat([torch.arange(1, len(x) + 1, dtype=torch.float64) / len(x) for x in (a, b)]).unique()
    widths = edges.diff(prepend=edges.new_zeros(1))
    middles = edges - widths / 2
    a, b = (x[(middles * len(x)).long().clamp(max=len(x) - 1)] for x in (a, b))
    return float((widths @ (a - b).abs().double()).mean())


def mode_total_variation(a: Tensor, b: Tensor) -> float:
    """Total variation between the frequencies of modes, from the mode ``[n]`` (an integer from 0) of each sample."""
    count = int(max(a.max(), b.max())) + 1
    p, q = (torch.bincount(x, minlength=count).double() / len(x) for x in (a, b))
    return float((p - q).abs().sum() / 2)


def mode_chi_squared(a: Tensor, b: Tensor) -> float:
    """Pearson's two-sample statistic of the modes ``[n]`` and ``[m]`` (integers from 0) of the samples.

        sum over modes (sqrt(m / n) A - sqrt(n / m) B)^2 / (A + B),    A and B counts

    Between samples of one distribution it is about chi-squared, with one degree of freedom less than modes.  A square
    sees a little everywhere sooner than the absolute value of total variation does.
    """
    count = int(max(a.max(), b.max())) + 1
    A, B = (torch.bincount(x, minlength=count).double() for x in (a, b))
    ratio = (len(b) / len(a)) ** 0.5
    return float(((ratio * A - B / ratio).square() / (A + B).clamp(min=1)).sum())


def whitening(real: Tensor) -> Callable[[Tensor], Tensor]:
    """The map after which ``real`` ``[n, D]`` has mean 0 and covariance 1.

    Directions in which real data hardly vary (below 1e-4 of the mean variance, or fewer samples than dimensions)
    are treated as if they varied that much: they stay bounded.
    """
    mean = real.double().mean(0)
    centred = real.double() - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(real) - 1))
    matrix = vectors * values.clamp(min=max(1e-4 * float(values.mean()), 1e-30)).rsqrt()
    return lambda x: (x - mean.to(x)) @ matrix.to(x)

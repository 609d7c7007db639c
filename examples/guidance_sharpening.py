"""Guidance sharpens, but not as its formula seems to say.

    python examples/guidance_sharpening.py [figure.png]

Classifier-free guidance follows, at every noise level, the score of p_t(x) p_t(y | x)^s.  It would sample from
p(x) p(y | x)^s, the class with its classifier sharpened, if these were the densities that noise makes of that one.
They are not, and on a mixture of Gaussians one can see exactly what comes out instead:

    wanted  p(x) p(y | x)^s, on a grid
    guided  N(z) |dz/dx|, with z the noise from which the guided ODE leads to x: the ODE solved backwards from the grid
"""

from __future__ import annotations

import sys

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from fromnoise.analytic import GaussianMixture
from fromnoise.denoise import classifier_free, under
from fromnoise.process import VP
from fromnoise.sample import solve
from fromnoise.types import Condition

PATH, SCALES, SIDE, CELLS = VP(), (2.0, 4.0, 8.0), 2.4, 128
CLASS, OTHERS = Condition(torch.ones(1, 1, 1)), Condition(torch.zeros(1, 1, 1))


def world() -> GaussianMixture:
    """Class 1 is a broken arc, of which one end lies in the midst of class 0."""
    lobes = [  # label, weight, mean, standard deviations along and across, angle in degrees
        (1, 1.3, (-0.15, 1.10), (0.42, 0.15), 8), (1, 1.0, (1.10, 0.45), (0.38, 0.14), -58),
        (1, 0.9, (0.55, -0.75), (0.36, 0.15), 40), (0, 1.6, (-0.35, -0.55), (0.45, 0.26), -20),
        (0, 1.2, (-1.15, 0.35), (0.40, 0.22), 65), (0, 0.8, (1.25, -1.15), (0.34, 0.20), 20),
    ]
    angle = torch.tensor([lobe[4] for lobe in lobes]).deg2rad()
    axes = torch.stack([torch.stack([angle.cos(), angle.sin()], 1), torch.stack([-angle.sin(), angle.cos()], 1)], 2)
    std = torch.tensor([lobe[3] for lobe in lobes])
    labels, weights, means = (torch.tensor([lobe[i] for lobe in lobes]) for i in range(3))
    covs = axes.double() @ torch.diag_embed(std.double() ** 2) @ axes.double().mT
    return GaussianMixture(weights, means, (covs + covs.mT) / 2, labels)


def grid() -> Tensor:
    """Centres of the cells, ``[CELLS^2, 2]``, row by row from below."""
    axis = (torch.arange(CELLS, dtype=torch.float64) + 0.5) / CELLS * 2 * SIDE - SIDE
    return torch.cartesian_prod(axis, axis).flip(1)


def tempered(whole: GaussianMixture, inside: GaussianMixture, points: Tensor, s: float) -> Tensor:
    """p(x) p(y | x)^s, which is p(x)^(1 - s) p(x | y)^s but for a constant; it sums to one over the cells."""
    log_p = (1 - s) * whole.log_prob(points) + s * inside.log_prob(points)
    return log_p.softmax(0).view(CELLS, CELLS)


def guided(whole: GaussianMixture, inside: GaussianMixture, points: Tensor, s: float, steps: int = 48) -> Tensor:
    """The density that guidance samples from: the cells carried back to noise by Runge and Kutta's rule."""
    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.tensor(t, dtype=torch.float64)
        u, c = whole.score(x, time, PATH), inside.score(x, time, PATH)
        return PATH.drift(time) * x - PATH.diffusion_squared(time) / 2 * (u + s * (c - u))

    z, h = points, 1 / steps
    for i in range(steps):
        t = i * h
        k1 = velocity(z, t)
        k2 = velocity(z + h / 2 * k1, t + h / 2)
        k3 = velocity(z + h / 2 * k2, t + h / 2)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(z + h * k3, t + h))
    z = z.view(CELLS, CELLS, 2)
    (dy, dx), cell = torch.gradient(z, dim=(0, 1)), (2 * SIDE / CELLS) ** 2
    area = (dx[..., 0] * dy[..., 1] - dx[..., 1] * dy[..., 0]).abs() / cell
    return torch.exp(-z.square().sum(-1) / 2) / (2 * torch.pi) * area * cell


def samples(whole: GaussianMixture, inside: GaussianMixture, s: float, count: int = 500) -> Tensor:
    """The same distribution as any user of the library would meet it."""
    def denoise(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        told = condition.text[:, 0, 0] > 0
        return torch.where(told[:, None], inside.x0(x, t, PATH), whole.x0(x, t, PATH))

    given, null = (condition.map(lambda c: c.expand(count, 1, 1)) for condition in (CLASS, OTHERS))
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return solve(under(classifier_free(denoise, null, s), given), noise, path=PATH, steps=60)


# ---- the figure -----------------------------------------------------------------------------------------

INK, FAINT, WARM = "#1d2733", "#6b7a86", "#d9793d"
COLD = LinearSegmentedColormap.from_list("cold", ["#ffffff", "#d5e8ee", "#86bfd0", "#2f86a6", "#0f4c6d", "#0a2540"])


def panel(ax: Axes, density: Tensor, context: Tensor, title: str = "", note: str = "") -> None:
    """One density, with the other class in contours."""
    extent = (-SIDE, SIDE, -SIDE, SIDE)
    ax.imshow(density.sqrt().numpy(), origin="lower", extent=extent, cmap=COLD, interpolation="bicubic")
    ax.contour(context.numpy(), levels=[float(context.max()) * f for f in (0.06, 0.3, 0.7)], extent=extent, colors=WARM,
               linewidths=(0.8, 1.1, 1.4), alpha=0.75)
    ax.set(xticks=[], yticks=[], xlim=(-1.95, 2.05), ylim=(-2.05, 1.95))
    ax.set_title(title, fontsize=14, color=INK, loc="center", pad=8)
    ax.text(0.04, 0.04, note, transform=ax.transAxes, fontsize=11, color=INK)
    for spine in ax.spines.values():
        spine.set(color="#c9d3da", linewidth=0.8)


def frame() -> tuple[Figure, Axes, list[list[Axes]]]:
    """(figure, the panel of the class, two rows of panels, one a scale)."""
    figure = Figure(figsize=(13.6, 6.62), facecolor="white")
    figure.text(0.025, 0.925, "Guidance sharpens, but not into the density it is named after", fontsize=21, color=INK)
    rows = figure.add_gridspec(2, len(SCALES), left=0.395, right=0.985, top=0.84, bottom=0.035, wspace=0.05,
                               hspace=0.05)
    axes = [[figure.add_subplot(rows[r, i]) for i in range(len(SCALES))] for r in range(2)]
    for row, label in zip(axes, ("wanted:  $p(x)\\,p(y\\,|\\,x)^s$", "what guidance draws"), strict=True):
        row[0].set_ylabel(label, fontsize=14, color=INK, labelpad=9)
    first = figure.add_axes((0.025, 0.243, 0.2906, 0.597))
    said = ("Blue is the class asked for, orange the other one. Above:\n"
            "the class with its classifier sharpened. Below: what the\n"
            "guided ODE makes of noise, as density and as samples.\n"
            "Guidance gives up the arm in disputed ground, thins\n"
            "what remains, and draws it away from the other class.")
    figure.text(0.025, 0.212, said, fontsize=11, color=FAINT, va="top", linespacing=1.45)
    return figure, first, axes


def main(target: str) -> None:
    whole, points = world(), grid()
    inside = whole.of_label(1)
    other = whole.of_label(0).log_prob(points).softmax(0).view(CELLS, CELLS)
    figure, first, (above, below) = frame()
    panel(first, tempered(whole, inside, points, 1.0), other, "$p(x\\,|\\,y)$, which is s = 1")
    for s, upper, lower in zip(SCALES, above, below, strict=True):
        want, got = tempered(whole, inside, points, s), guided(whole, inside, points, s)
        distance = float((want - got).abs().sum()) / 2
        print(f"s = {s:g}: total variation {distance:.3f}; the guided density sums to {float(got.sum()):.3f}")
        panel(upper, want, other, f"s = {s:g}")
        panel(lower, got, other, note=f"{distance:.0%} of the mass is elsewhere")
        lower.scatter(*samples(whole, inside, s).T.numpy(), s=2.5, color=INK, alpha=0.35, linewidths=0)
    figure.savefig(target, dpi=130)
    print(target)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1] if len(sys.argv) > 1 else "guidance_sharpening.png")

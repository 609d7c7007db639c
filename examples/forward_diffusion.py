"""A distribution diffuses, and two ways back: the paths of the SDE and those of the ODE.

    python examples/forward_diffusion.py forward_diffusion.png

From left to right in time: five narrow modes become one Gaussian.  Backwards from the same noise, the stochastic paths
wander and the deterministic ones bend smoothly, and at every time both are spread as the shaded density says.
"""

import itertools
import sys

import torch
from torch import Tensor

from fromnoise.analytic import GaussianMixture
from fromnoise.figures import COLOURS, INK, QUIET, figure, save
from fromnoise.process import GaussianPath, Trigonometric

STEPS, PATHS = 600, 14


def mixture() -> GaussianMixture:
    """Five modes on a line."""
    means = torch.tensor([[-1.9], [-1.2], [0.1], [0.9], [1.6]], dtype=torch.float64)
    return GaussianMixture.isotropic(means, 0.09, torch.tensor([1.0, 2.0, 1.5, 1.0, 2.0]))


def backwards(data: GaussianMixture, path: GaussianPath, noise: Tensor, stochastic: bool) -> tuple[Tensor, Tensor]:
    """(times ``[N]``, points ``[N, B]``) from pure noise to data, along the reverse SDE or the ODE."""
    times = torch.linspace(1, 0, STEPS, dtype=torch.float64)
    random, x, points = torch.Generator().manual_seed(2), noise, [noise]
    for t, s in itertools.pairwise(times):
        x = sde_step(data, path, x, t, s, random) if stochastic else heun_step(data, path, x, t, s)
        points.append(x)
    return times, torch.stack(points)[..., 0]


def sde_step(data: GaussianMixture, path: GaussianPath, x: Tensor, t: Tensor, s: Tensor,
             random: torch.Generator) -> Tensor:
    """A draw from p(x_s | x_t), exactly: x0 from its posterior, then x_s between it and x_t (Ho et al. 2020, eq. 7)."""
    x0 = data.posterior(x, t, path, random)
    kept = path.alpha(t) / path.alpha(s)
    fresh = path.sigma(t) ** 2 - (kept * path.sigma(s)) ** 2
    mean = (kept * path.sigma(s) ** 2 * x + path.alpha(s) * fresh * x0) / path.sigma(t) ** 2
    return mean + fresh.sqrt() * path.sigma(s) / path.sigma(t) * torch.randn(x.shape, generator=random).double()


def heun_step(data: GaussianMixture, path: GaussianPath, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s on the ODE, to second order."""
    h, slope = s - t, data.velocity(x, t, path)
    return x + h / 2 * (slope + data.velocity(x + h * slope, s, path))


def density(data: GaussianMixture, path: GaussianPath, times: Tensor, places: Tensor) -> Tensor:
    """p_t(x) ``[X, N]``, each time scaled to a highest value of 1."""
    p = torch.stack([data.log_prob(places[:, None], t, path).exp() for t in times], 1)
    return (p / p.amax(0)).sqrt()


def main(out: str) -> None:
    data, path = mixture(), Trigonometric()
    noise = torch.linspace(-1.9, 1.9, PATHS, dtype=torch.float64)[:, None]
    clock, places = torch.linspace(0.0, 1, 240, dtype=torch.float64), torch.linspace(-3, 3, 301, dtype=torch.float64)
    shade = density(data, path, clock, places)
    chart, grid = figure(11, 6.4, 2, 3, gridspec_kw={"width_ratios": (1, 6, 1)}, sharey=True)
    rows = (("The SDE backwards: fresh noise at every step", True),
            ("The ODE: the same densities, smooth paths", False))
    for (left, middle, right), (title, stochastic) in zip(grid, rows, strict=True):
        middle.pcolormesh(clock.numpy(), places.numpy(), shade.numpy(), cmap="Blues", vmax=1.6, shading="gouraud")
        times, points = backwards(data, path, noise, stochastic)
        for i, line in enumerate(points.T):
            middle.plot(times.numpy(), line.numpy(), color=COLOURS[i % 7], linewidth=1.1, alpha=0.9)
        middle.set_title(title, loc="left", fontsize=11)
        middle.set_xlim(0, 1)
        middle.set_ylim(-3, 3)
        for axes, t in ((left, 0.0), (right, 1.0)):
            draws = histogram_draws(data, path, t)
            axes.hist(draws.numpy(), bins=90, range=(-3, 3), orientation="horizontal", density=True, color="#b9d3f3")
            p = data.log_prob(places[:, None], t, path).exp()
            axes.plot(p.numpy(), places.numpy(), color=INK, linewidth=1.4)
            axes.set_xticks([])
            axes.set_title("data" if t == 0 else "noise", fontsize=10)
        for axes in (left, middle, right):
            axes.grid(False)
        left.invert_xaxis()
    grid[1, 1].set_xlabel("time", color=QUIET)
    save(chart, out)


def histogram_draws(data: GaussianMixture, path: GaussianPath, t: float) -> Tensor:
    """20,000 points of x_t."""
    random = torch.Generator().manual_seed(0)
    x0, _ = data.sample(20_000, random)
    eps = torch.randn(x0.shape, generator=random, dtype=torch.float64)
    return path.add_noise(x0, eps, torch.tensor(t, dtype=torch.float64))[:, 0]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "forward_diffusion.png")

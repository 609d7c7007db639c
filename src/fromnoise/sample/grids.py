"""Time grids: where on the clock the denoiser is asked.

A grid is float64 times ``[steps + 1]`` that fall from 1 to 0.  It knows nothing of solvers, and a shift is
applied once, by ``time_grid``.  Grids in sigma/alpha = r run from that of the path's start, at most ``HIGH``, to
``low``, and then jump to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fromnoise.config import nearest
from fromnoise.process import GaussianPath
from fromnoise.types import UserError

HIGH, LOW = 80.0, 0.002  # EDM's sigma_max and sigma_min


def uniform(steps: int, path: GaussianPath) -> Tensor:
    """Even on the path's clock."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def quadratic(steps: int, path: GaussianPath) -> Tensor:
    """Even in sqrt(t): denser towards clean (Song et al. 2021a)."""
    return uniform(steps, path).square()


def cosine(steps: int, path: GaussianPath) -> Tensor:
    """sin^2 of an even angle: denser at both ends."""
    return torch.sin(uniform(steps, path) * (math.pi / 2)).square()


def sigmoid(steps: int, path: GaussianPath) -> Tensor:
    """A logistic curve from -3 to 3, brought to [0, 1]: denser at both ends, less than cosine."""
    s = torch.sigmoid(6 * uniform(steps, path) - 3)
    return (s - s[-1]) / (s[0] - s[-1])


def beta(steps: int, path: GaussianPath) -> Tensor:
    """Quantiles of Beta(0.6, 0.6) (Lee et al. 2024, Beta sampling): denser at both ends."""
    from scipy.stats import beta as law

    return torch.from_numpy(law.ppf(uniform(steps, path).numpy(), 0.6, 0.6))


def karras(steps: int, path: GaussianPath, low: float = LOW, high: float = HIGH, rho: float = 7.0) -> Tensor:
    """Even in r^(1/rho) (Karras et al. 2022, eq. 5)."""
    first, last = (r ** (1 / rho) for r in _range(path, low, high))
    return _of_ratio(path, torch.linspace(first, last, steps, dtype=torch.float64).clamp(min=0) ** rho)


def logsnr(steps: int, path: GaussianPath, low: float = LOW, high: float = HIGH) -> Tensor:
    """Even in log r."""
    first, last = (math.log(r) for r in _range(path, low, high))
    return _of_ratio(path, torch.linspace(first, last, steps, dtype=torch.float64).exp())


def angle(steps: int, path: GaussianPath) -> Tensor:
    """Even in atan r: even steps along the circle."""
    even = torch.linspace(math.atan(_range(path, LOW, 1e6)[0]), 0, steps + 1, dtype=torch.float64)
    return _of_ratio(path, even[:-1].tan())


def flow(steps: int, path: GaussianPath) -> Tensor:
    """Even in r / (1 + r), the clock of rectified flow, on any path."""
    return flow_clock(path, uniform(steps, path))


def flow_clock(path: GaussianPath, s: Tensor) -> Tensor:
    """Times of a path at which r / (1 + r) falls as ``s`` does, from 1 to 0."""
    highest = _range(path, LOW, 1e6)[0]
    s = s[:-1] * (highest / (1 + highest))
    return _of_ratio(path, s / (1 - s))


GRIDS: dict[str, Callable[[int, GaussianPath], Tensor]] = {
    "uniform": uniform, "quadratic": quadratic, "cosine": cosine, "sigmoid": sigmoid, "beta": beta,
    "karras": karras, "logsnr": logsnr, "angle": angle, "flow": flow,
}


def time_grid(steps: int, path: GaussianPath, grid: str | Sequence[float] | Tensor = "uniform",
              shift: float = 1.0) -> Tensor:
    """``[steps + 1]`` float64 times from noise to clean: a named grid, shifted towards noise, or the caller's own.

    UserError where the steps, the name, the shift or the times cannot be.
    """
    if not isinstance(grid, str):
        return checked_grid(grid)
    if steps < 1:
        raise UserError(f"At least 1 step is needed (got {steps}).")
    if grid not in GRIDS:
        raise UserError(f'There is no grid "{grid}". {nearest(grid, GRIDS)}')
    return shifted(GRIDS[grid](steps, path), path, shift)


def shifted(times: Tensor, path: GaussianPath, shift: float) -> Tensor:
    """A grid moved towards noise by 2 log ``shift`` in log-SNR, both of whose ends stay.

    A path that ends at a finite log-SNR has no room for times beyond it.  So what is shifted is u = f / f(1), with
    f = sigma / (alpha + sigma) the clock of the flow path: u -> s u / (1 + (s - 1) u) (Esser et al. 2024).  Where
    f(1) = 1 that is the shift in log-SNR at every time, elsewhere near the clean end.
    UserError for a shift that cannot be.
    """
    if not shift > 0:
        raise UserError(f"The grid's shift must be greater than 0 (got {shift}).")
    if shift == 1:
        return times
    flow, end = (torch.sigmoid(-path.logsnr(t) / 2) for t in (times, torch.ones_like(times)))
    moved = end * shift * flow / (end + (shift - 1) * flow)
    return torch.where(times == 1, times, path.time(-2 * torch.logit(moved)))


def checked_grid(grid: Sequence[float] | Tensor) -> Tensor:
    """A user's grid as float64; it must fall strictly and stay inside [0, 1]."""
    times = as_times(grid)
    if times.ndim != 1 or len(times) < 2 or not bool((times[1:] < times[:-1]).all()):
        raise UserError("A grid is a list of at least two times that fall strictly, such as [1, 0.5, 0].")
    if float(times[0]) > 1 or float(times[-1]) < 0:
        raise UserError("The times of a grid must lie between 1 (noise) and 0 (clean).")
    return times


def as_times(grid: Sequence[float] | Tensor) -> Tensor:
    """A user's numbers in float64, on the CPU as every clock.  UserError where they are none."""
    try:
        return torch.as_tensor(grid, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"A grid is a name, or a list of times such as [1, 0.5, 0] (got {grid!r}).") from None


def _range(path: GaussianPath, low: float, high: float) -> tuple[float, float]:
    """(largest, smallest) r: of the path's start, unless it is above ``high``, and ``low``."""
    start = math.exp(min(float(-path.logsnr(torch.ones((), dtype=torch.float64)) / 2), math.log(high)))
    return start, min(low, start / 2)


def _of_ratio(path: GaussianPath, ratio: Tensor) -> Tensor:
    """Times of falling r, the first moved to t = 1, and 0 at the end."""
    times = path.time(-2 * ratio.log())
    times[0] = 1.0
    return torch.cat([times, times.new_zeros(1)])

"""Figures of what noise does to pictures, by frequency and by bit depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromnoise.evaluate.spectra import band_snr, drowning_time, quantise, radial_power, wiener_loss
from fromnoise.figures import COLOURS, INK, LINE, QUIET, bare, quiet, save
from fromnoise.process import GaussianPath


def plot_frequencies(x0: Tensor, path: GaussianPath, out: str | Path | None = None, count: int = 48,
                     times: tuple[float, ...] = (0.0, 0.15, 0.4, 0.7, 0.9), caption: str = "") -> Any:
    """Pictures ``x0`` ``[B, 1, C, H, W]`` losing their detail before their layout; the first of them is shown.

    Above, it at ``times``.  Below, the spectrum of what is left of all pictures against that of the noise, the
    signal-to-noise ratio of every band at every time, and the least linear loss taken apart by band.  ``caption``
    stands under the title.
    """
    from matplotlib.figure import Figure

    chart = Figure(figsize=(12.5, 7.2), facecolor="white")
    top = chart.add_gridspec(1, len(times), left=0.05, right=0.98, top=0.84, bottom=0.60, wspace=0.04)
    below = chart.add_gridspec(1, 3, left=0.065, right=0.98, top=0.50, bottom=0.09, wspace=0.28)
    chart.text(0.05, 0.945, "High frequencies are perturbed faster", fontsize=17, fontweight="bold", color=INK)
    chart.text(0.05, 0.905, caption, fontsize=11, color=QUIET)
    random = torch.Generator().manual_seed(0)
    eps = torch.randn(x0[:1].shape, generator=random)
    frequency, power = radial_power(x0, count)
    for i, time in enumerate(times):
        axes = chart.add_subplot(top[i])
        bare(axes)
        show(axes, path.add_noise(x0[:1], eps, torch.tensor([time]))[0, 0])
        axes.set_title(f"t = {time:g}", fontsize=10, color=QUIET, loc="left", pad=4)
    _spectra(chart.add_subplot(below[0]), frequency, power, path, times[1:])
    _ratios(chart, chart.add_subplot(below[1]), frequency, power, path)
    _losses(chart.add_subplot(below[2]), frequency, power, path, times[1:])
    return save(chart, out)


def _spectra(axes: Any, frequency: Tensor, power: Tensor, path: GaussianPath, times: tuple[float, ...]) -> None:
    """alpha^2 P of the pictures and sigma^2 of the noise, crossing where a band drowns."""
    quiet(axes)
    axes.loglog(frequency.numpy(), power.numpy(), color=INK, linewidth=2.4)
    axes.text(float(frequency[1]), float(power[1]) * 1.6, "picture", color=INK, fontsize=9)
    for colour, time in zip(COLOURS, times, strict=False):
        level = float(torch.exp(-path.logsnr(torch.tensor(time, dtype=torch.float64))))
        axes.axhline(level, color=colour, linewidth=1.6)
        axes.text(float(frequency[-1]) * 1.04, level, f"{time:g}", color=colour, va="center", fontsize=8, clip_on=False)
    axes.set_title("Power: noise rises evenly, pictures slope", loc="left", fontsize=10.5)
    axes.set_xlabel("frequency, cycles a pixel")
    axes.set_ylabel("power a coefficient (noise over alpha²)")
    axes.set_xlim(float(frequency[0]), float(frequency[-1]))


def _ratios(chart: Any, axes: Any, frequency: Tensor, power: Tensor, path: GaussianPath) -> None:
    """The signal-to-noise ratio over band and time, with the line where it is 1."""
    quiet(axes)
    axes.grid(False)
    t = torch.linspace(0.002, 0.998, 200, dtype=torch.float64)
    decibel = 10 * band_snr(power.double(), path, t).log10()
    filled = axes.contourf(frequency.numpy(), t.numpy(), decibel.clamp(-30, 30).numpy(), levels=range(-30, 31, 3),
                           cmap="RdYlBu", extend="both")
    axes.plot(frequency.numpy(), drowning_time(power.double(), path).numpy(), color=INK, linewidth=2.2)
    axes.set_xscale("log")
    axes.text(0.04, 0.06, "seen", transform=axes.transAxes, fontsize=10, color="white", fontweight="bold")
    axes.text(0.96, 0.92, "drowned", transform=axes.transAxes, fontsize=10, color="white", ha="right",
              fontweight="bold")
    bar = chart.colorbar(filled, ax=axes, ticks=(-30, 0, 30), pad=0.02, fraction=0.045)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=QUIET)
    axes.set_title("Signal-to-noise ratio, dB", loc="left", fontsize=10.5)
    axes.set_xlabel("frequency, cycles a pixel")
    axes.set_ylabel("time")


def _losses(axes: Any, frequency: Tensor, power: Tensor, path: GaussianPath, times: tuple[float, ...]) -> None:
    """The least linear error in each band, as a share of its power: 1 where nothing can be told."""
    quiet(axes)
    losses = wiener_loss(power.double(), path, torch.tensor(times, dtype=torch.float64)) / power.double()
    for colour, time, row in zip(COLOURS, times, losses, strict=False):
        axes.plot(frequency.numpy(), row.numpy(), color=colour, linewidth=2)
        half = np.interp(0.5, row.numpy(), frequency.numpy())
        axes.text(half * 0.9, 0.52, f"{time:g}", color=colour, fontsize=9, ha="right")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.05)
    axes.set_xlim(float(frequency[0]), float(frequency[-1]))
    axes.set_title("Loss by band: the share that cannot be told", loc="left", fontsize=10.5)
    axes.set_xlabel("frequency, cycles a pixel")


def plot_blind_spots(x0: Tensor, out: str | Path | None = None, depths: tuple[int, ...] = (6, 5, 4, 3, 2)) -> Any:
    """One picture ``[1, C, H, W]`` in fewer bits, above, and with noise of the same power, below.

    The eye forgives noise and sees the edges that rounding draws in smooth regions, although the error is the same.
    """
    from fromnoise.figures import figure

    chart, grid = figure(2.5 * len(depths), 4.4, 2, len(depths))
    random = torch.Generator().manual_seed(0)
    for column, depth in zip(grid.T, depths, strict=True):
        rounded = quantise(x0, depth)
        error = float((rounded - x0).square().mean().sqrt())
        noisy = x0 + error * torch.randn(x0.shape, generator=random)
        for axes, picture in zip(column, (rounded, noisy), strict=True):
            bare(axes)
            show(axes, picture[0])
        column[0].set_title(f"{depth} bits", loc="left", fontsize=10, color=INK)
        column[1].set_title(f"noise of {error:.3f}", loc="left", fontsize=10, color=QUIET)
    chart.suptitle("The same error, rounded (above) and as noise (below)", x=0.01, ha="left", fontsize=13,
                   fontweight="bold", color=INK)
    return save(chart, out)


def show(axes: Any, picture: Tensor) -> None:
    """A picture ``[C, H, W]`` in [-1, 1]; beyond is cut."""
    pixels = ((picture.clamp(-1, 1) + 1) / 2).permute(1, 2, 0).squeeze(-1)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
    for side in axes.spines.values():
        side.set_edgecolor(LINE)

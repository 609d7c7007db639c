"""One look for every figure: quiet axes, a few colours that stay apart, no state left in matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

INK, QUIET, LINE = "#1d2433", "#6b7280", "#e3e6eb"
COLOURS = ("#2f6fde", "#e4572e", "#17a398", "#8f5bd6", "#d99a00", "#d6408f", "#5c8a2e", "#64748b")


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Any, Any]:
    """(figure, axes or an array of axes) of ``width`` x ``height`` inches; ``grid`` as for ``Figure.subplots``."""
    from matplotlib.figure import Figure

    chart = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = chart.subplots(rows, columns, **grid)
    for one in axes.flat if rows * columns > 1 else [axes]:
        quiet(one)
    return chart, axes


def quiet(axes: Any) -> None:
    """Only what is read: a base line, light horizontal rules, text in grey."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.grid(True, axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=QUIET, length=0, labelsize=9)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)
    axes.title.set_color(INK)


def bare(axes: Any) -> None:
    """No axes at all, for pictures."""
    axes.set_axis_off()


def save(chart: Any, out: str | Path | None, dpi: int = 150) -> Any:
    """Write the figure to ``out`` where given, and return it."""
    if out is not None:
        chart.savefig(out, dpi=dpi)
    return chart

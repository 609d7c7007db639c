"""Curves as inline SVG that follow the page's colours, in light and in dark."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fromnoise.figures import COLOURS

# Colours matplotlib draws with, each replaced in the SVG by a colour of the page's style sheet.
_INK, _LINE, _ACCENT = "#010101", "#020202", "#030303"
_STYLE = {_INK: "var(--muted)", _LINE: "var(--line)", _ACCENT: "var(--accent)"}

POINTS = 600  # across the width of the plot; more could not be told apart


def loss_points(metrics: Sequence[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses of the lines of ``metrics.jsonl`` that hold a finite loss, in order of steps."""
    points = {
        int(m["step"]): float(m["loss"])
        for m in metrics
        if isinstance(m.get("loss"), int | float) and "step" in m and math.isfinite(m["loss"])
    }
    steps = np.array(sorted(points), dtype=np.int64)
    return steps, np.array([points[int(s)] for s in steps], dtype=np.float64)


def smooth(values: np.ndarray, share: float = 0.06) -> np.ndarray:
    """Centred running mean over ``share`` of the curve; at the ends over what there is."""
    half = int(len(values) * share / 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    i = np.arange(len(values))
    low, high = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)


def envelope(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve with at most ``2 * POINTS`` points: of each stretch of steps its lowest and highest value.

    On paper it looks like the whole curve, and a long run makes no larger page than a short one.
    """
    if len(steps) <= 2 * POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), POINTS + 1).astype(int)
    keep = set()
    for a, b in itertools.pairwise(edges):
        keep |= {a + values[a:b].argmin(), a + values[a:b].argmax()}
    keep = sorted(keep)
    return steps[keep], values[keep]


def loss_svg(metrics: Sequence[dict], name: str = "loss") -> str | None:
    """The training loss, raw and smoothed, as an ``<svg>`` element; None with fewer than two points.

    The loss axis is logarithmic where the smoothed curve falls by more than four times.  ``name``
    prefixes the element ids, which must be unique on a page.
    """
    steps, losses = loss_points(metrics)
    if len(steps) < 2:
        return None
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    mean = smooth(losses)
    label = f"Training loss from {mean[0]:.3g} at step {steps[0]:,} to {mean[-1]:.3g} at step {steps[-1]:,}"
    with _drawn(name, label) as (axes, svg):
        axes.plot(*envelope(steps, losses), color=_ACCENT, alpha=0.25, linewidth=0.8)
        every = max(1, len(steps) // POINTS)
        axes.plot(steps[::every], mean[::every], color=_ACCENT, linewidth=2.0, solid_capstyle="round")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        if losses.min() > 0 and mean.max() > 4 * mean.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(plain)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.margins(x=0.01)
        axes.set_xlabel("step", color=_INK, labelpad=8)
    return svg[0]


STANDARD = {"step", "loss", "lr", "seconds", "core_seconds", "examples_per_s"}  # numbers of every line of metrics


def parts_of(metrics: Sequence[dict]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of whatever else the lines of ``metrics.jsonl`` say of the loss: its parts, by name."""
    names = dict.fromkeys(name for m in metrics for name in m if name not in STANDARD)
    points = {name: loss_points([{"step": m["step"], "loss": m[name]} for m in metrics if name in m])
              for name in names}
    return {name: (steps, values) for name, (steps, values) in points.items() if len(steps) > 1}


def parts_svg(metrics: Sequence[dict], name: str = "parts") -> str | None:
    """What the loss is made of, as its parts were logged, as an ``<svg>`` element; None where it is one thing.

    ``name`` as for ``loss_svg``.
    """
    parts = parts_of(metrics)
    if not parts:
        return None
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ends = ", ".join(f"{part} {smooth(values)[-1]:.3g}" for part, (_, values) in parts.items())
    with _drawn(name, f"Parts of the training loss, at the end: {ends}") as (axes, svg):
        for colour, (part, (steps, values)) in zip(itertools.cycle(COLOURS), parts.items(), strict=False):
            every = max(1, len(steps) // POINTS)
            axes.plot(steps[::every], smooth(values)[::every], color=colour, linewidth=1.6, label=part)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.margins(x=0.01)
        axes.set_xlabel("step", color=_INK, labelpad=8)
        axes.legend(frameon=False, labelcolor=_INK, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return svg[0]


# ---- the weighting ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weightings:
    """What a loss pays attention to: effective weightings over log-SNR, all of one length, and words on ``own``."""

    log_snr: np.ndarray
    own: np.ndarray
    named: dict[str, np.ndarray]
    words: str = ""


def weighting_svg(weightings: Weightings, name: str = "weighting") -> str:
    """The effective weighting of a run beside those of the literature, as an ``<svg>`` element; clean is left.

    ``name`` as for ``loss_svg``.
    """
    from matplotlib.ticker import MaxNLocator

    w = weightings
    label = f"Effective weighting over log-SNR: {w.words}" if w.words else "Effective weighting over log-SNR"
    with _drawn(name, label) as (axes, svg):
        others = itertools.cycle(COLOURS[:1] + COLOURS[2:])  # the second is almost the accent
        for colour, (which, values) in zip(others, w.named.items(), strict=False):
            axes.plot(w.log_snr, values, color=colour, linewidth=1.2, label=which)
        axes.fill_between(w.log_snr, w.own, color=_ACCENT, alpha=0.15, linewidth=0)
        axes.plot(w.log_snr, w.own, color=_ACCENT, linewidth=2.8, solid_capstyle="round", label="this run")
        axes.set_xlim(float(w.log_snr.max()), float(w.log_snr.min()))
        axes.set_ylim(0, 1.05 * max(float(np.max(values)) for values in (w.own, *w.named.values())))
        axes.set_xlabel("clean  \N{LEFTWARDS ARROW}  log-SNR  \N{RIGHTWARDS ARROW}  noise", color=_INK, labelpad=8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        lines, names = axes.get_legend_handles_labels()
        axes.legend(lines[-1:] + lines[:-1], names[-1:] + names[:-1], frameon=False, labelcolor=_INK, ncols=4,
                    loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return svg[0]


# ---- on the page ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _drawn(name: str, label: str) -> Iterator[tuple[Any, list[str]]]:
    """(axes to draw on, a list that holds the ``<svg>`` element afterwards)."""
    import matplotlib
    from matplotlib.figure import Figure

    found: list[str] = []
    # rc_context restores the settings on leaving; a bare Figure never enters pyplot's registry.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fromnoise", "font.size": 10}):
        figure = Figure(figsize=(6.4, 3.5), layout="constrained")
        axes = figure.add_subplot()
        yield axes, found
        axes.grid(True, axis="y", color=_LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(which="both", colors=_INK, length=0, pad=6)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    found.append(_inline(text.getvalue(), name, label))


def _inline(svg: str, name: str, label: str) -> str:
    """A stand-alone SVG file as an element of a page: its colours, its ids, a label, no foreign names."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"\bfont-family:[^;\"]*;?", "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for drawn, page in _STYLE.items():
        svg = svg.replace(drawn, page)
    head = re.search(r'viewBox="[^"]*"', svg)
    assert head is not None
    return re.sub(r"<svg[^>]*>", f'<svg {head[0]} role="img" aria-label="{label}">', svg, count=1).strip()

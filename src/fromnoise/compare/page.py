"""What a person sees of a comparison: a table, a chart with error bars, and the same pictures by every variant."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from fromnoise.compare.outcome import Comparison
from fromnoise.compare.runs import Job
from fromnoise.figures import COLOURS, INK, LINE, QUIET, figure
from fromnoise.files import replacing, write_text
from fromnoise.studio.page import environment

LABEL = 150  # pixels beside each row of pictures
CHARTED = 2  # measures that are drawn


def write_comparison(out: Path, title: str, command: str, found: Comparison, jobs: Sequence[Job]) -> Path:
    """``comparison.json``, ``table.md``, ``chart.png``, ``pictures.png`` and ``index.html`` in ``out``; the page."""
    write_text(out / "comparison.json", json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n")
    write_text(out / "table.md", found.markdown())
    chart, sheet = chart_png(found), pictures(found, jobs)
    for name, data in (("chart.png", chart), ("pictures.png", sheet)):
        if data:
            with replacing(out / name) as temporary:
                temporary.write_bytes(data)
    page = environment().get_template("comparison.html.j2").render(
        title=title, command=command, found=found, style=style(), chart=uri(chart), pictures=uri(sheet),
        prompts=prompts(jobs))
    write_text(out / "index.html", page)
    return out / "index.html"


def chart_png(found: Comparison) -> bytes:
    """The first measures of every variant, each seed a dot, with mean and standard error."""
    names = found.measures[:CHARTED]
    chart, axes = figure(4.6 * len(names) + 1.2, 0.32 * len(found.outcomes) + 1.1, 1, len(names), sharey=True)
    for name, ax in zip(names, axes if len(names) > 1 else [axes], strict=True):
        draw(ax, found, name)
    buffer = io.BytesIO()
    chart.savefig(buffer, dpi=150)
    return buffer.getvalue()


def draw(ax: Any, found: Comparison, name: str) -> None:
    """One measure: a line for each variant, the best on top."""
    rows = list(range(len(found.outcomes)))[::-1]
    values = [one.measures[name] for one in found.outcomes]
    for row, value in zip(rows, values, strict=True):
        ax.plot(value.seeds, [row] * len(value.seeds), ".", color=COLOURS[0], alpha=0.35)
        ax.errorbar(value.mean, row, xerr=value.error or 0, fmt="o", color=COLOURS[0], capsize=3, markersize=5)
    if name in found.real:
        ax.axvline(found.real[name], color=QUIET, linewidth=1, linestyle=":")
    ax.set_yticks(rows, [one.name for one in found.outcomes])
    ax.grid(True, axis="x", color=LINE, linewidth=0.8)
    if values[0].format.endswith("%"):
        from matplotlib.ticker import PercentFormatter

        ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_title(name, fontsize=10, loc="left")


def pictures(found: Comparison, jobs: Sequence[Job]) -> bytes:
    """The last preview of the first finished seed of every variant, one row each, in the order of the table."""
    rows = [(one.name, file) for one in found.outcomes if (file := last_preview(one.name, jobs)) is not None]
    if not rows:
        return b""
    images = [Image.open(file).convert("RGB") for _, file in rows]
    sheet = Image.new("RGB", (LABEL + max(i.width for i in images), sum(i.height + 6 for i in images)), "white")
    font, y = ImageFont.load_default(size=16), 0
    for (name, _), image in zip(rows, images, strict=True):
        ImageDraw.Draw(sheet).text((4, y + image.height // 2), name, fill=INK, font=font, anchor="lm")
        sheet.paste(image, (LABEL, y))
        y += image.height + 6
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def last_preview(variant: str, jobs: Sequence[Job]) -> Path | None:
    """The newest preview of the variant's first finished run."""
    for job in jobs:
        if job.variant == variant and job.report() is not None:
            files = sorted((job.out / "samples").glob("step-*.png"))
            return files[-1] if files else None
    return None


def prompts(jobs: Sequence[Job]) -> list[str]:
    """What the pictures of a row were asked to show."""
    from fromnoise.showing.previews import PREVIEWS

    said = list(jobs[0].recipe.data.open("test").prompts())
    return [said[i % len(said)] for i in range(PREVIEWS)]


def uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def style() -> str:
    from importlib import resources

    return resources.files("fromnoise.studio").joinpath("templates", "page.css").read_text(encoding="utf-8")

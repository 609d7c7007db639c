"""What a person sees of a measured world: the figures, futures beside the truth, long rollouts."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import torch
from PIL import Image

from fromnoise.files import replacing, write_text
from fromnoise.media import enlargement, grid
from fromnoise.studio.page import environment, page_style
from fromnoise.worlds.measure.measure import Shown
from fromnoise.worlds.measure.report import FOLDER, Measured

MOMENTS, ROLLOUTS = 6, 4  # that are shown
SMALL = 64  # pixels to which small frames are enlarged


def write_page(run: Path, measured: Measured, shown: Shown) -> Path:
    """``measures.json``, ``futures.png``, ``rollouts.png`` and ``index.html`` in the run's folder; the page."""
    out = run / FOLDER
    measured.save(run)
    sheets = {"futures": png(futures(shown)), "rollouts": png(rollouts(shown))}
    for name, data in sheets.items():
        with replacing(out / f"{name}.png") as temporary:
            temporary.write_bytes(data)
    page = environment().get_template("measured.html.j2").render(
        title=f"fromnoise: {run.name}, measured", measured=measured, style=page_style(),
        branches=shown.made.shape[1], numbers=shown.rollouts.numbers,
        **{name: "data:image/png;base64," + base64.b64encode(data).decode() for name, data in sheets.items()})
    write_text(out / "index.html", page)
    return out / "index.html"


def futures(shown: Shown) -> Image.Image:
    """Two rows for each of some moments: its last frame and the last of each true future, then the same as made."""
    last = shown.moments.history[:MOMENTS, -1:]
    rows = [torch.cat([last, films[:MOMENTS, :, -1]], dim=1) for films in (shown.moments.real, shown.made)]
    return sheet(torch.stack(rows, dim=1).flatten(0, 1))


def rollouts(shown: Shown) -> Image.Image:
    """A row for each of some rollouts, from its last real frame on."""
    return sheet(shown.rollouts.frames[:ROLLOUTS])


def sheet(rows: torch.Tensor) -> Image.Image:
    """Frames ``[rows, columns, C, H, W]`` on one sheet."""
    return grid(rows.flatten(0, 1)[:, None], columns=rows.shape[1], enlarge=enlargement(rows.shape[-2], SMALL))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()

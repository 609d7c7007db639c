"""What a run shows of an autoencoder: held-out pictures that went through it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.evaluate import Report, Row
from fromnoise.evaluate.reconstruction import psnr
from fromnoise.files import disk_errors, replacing
from fromnoise.media import enlargement, grid
from fromnoise.studio import Showcase
from fromnoise.types import UserError

SHOWN = 12  # pictures on the page


def judge(codec: Codec, console: Console, samples: int | None = None, guidance: float | None = None,
          seed: int = 0) -> Report:
    """Held-out pictures against what comes back of them, by the recipe's settings unless others are given."""
    if guidance is not None:
        raise UserError("An autoencoder is not guided: leave out --guidance.")
    settings = evaluation_settings(codec, samples, seed)
    with console.status("Evaluating"):
        real = held_out(codec, settings["samples"])
        made = codec.reconstruct(real)
    rows = [Row("PSNR, dB", float(psnr(made, real).mean()), None, ".2f", "higher")]
    return Report(rows, len(real), "Held-out pictures.", settings)


def evaluation_settings(codec: Codec, samples: int | None = None, seed: int = 0) -> dict[str, Any]:
    """What an evaluation is made with."""
    return {"samples": samples or codec.recipe.evaluate.samples, "seed": seed, "trained_steps": codec.step}


def held_out(codec: Codec, count: int) -> Tensor:
    """The first ``count`` held-out pictures of the largest group of one size."""
    source = codec.recipe.data.open("test")
    chosen = list(max(source.groups, key=len)[:count])
    return source.batch(chosen, range(len(chosen))).media


def show(codec: Codec, out: Path) -> Showcase:
    """Held-out pictures and what comes back of them."""
    real = held_out(codec, SHOWN)
    made = codec.reconstruct(real)
    h, w = codec.system.latent_size(*real.shape[-2:])
    channels = codec.system.latents.channels
    words = (f"Pictures of {real.shape[-1]}x{real.shape[-2]} as latents of {w}x{h} in {channels} channels, "
             f"{real[0].numel() / (h * w * channels):.3g} times fewer numbers.")
    save_sheet(torch.cat([real, made]), out / "samples" / "grid.png", len(real))
    return Showcase(name=codec.recipe.name, description=words, originals=real, reconstructions=made)


def save_preview(codec: Codec, out: Path, step: int, count: int = 8) -> None:
    """``samples/step-000500.png``: the first ``count`` held-out pictures as they come back, on one row."""
    real = held_out(codec, count)
    made = codec.reconstruct(real[torch.arange(count) % len(real)])
    save_sheet(made, out / "samples" / f"step-{step:06d}.png", count)


def save_sheet(media: Tensor, path: Path, columns: int) -> None:
    """Pictures on one sheet, whole or not at all."""
    with disk_errors(path), replacing(path) as temporary:
        grid(media, columns, enlargement(media.shape[-2])).save(temporary, format="PNG")

"""What a run shows of an autoencoder: held-out pictures that went through it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.evaluate import Report
from fromnoise.evaluate.reconstruction import evaluate_reconstruction
from fromnoise.files import disk_errors, replacing
from fromnoise.media import enlargement, grid
from fromnoise.studio import Showcase
from fromnoise.types import UserError

SHOWN = 12  # pictures on the page


def judge(codec: Codec, console: Console, samples: int | None = None, guidance: float | None = None,
          seed: int = 0) -> Report:
    """Held-out pictures against what comes back of them, by the recipe's settings unless others are given."""
    if guidance is not None or seed:
        raise UserError("An autoencoder is not guided and draws no noise: leave out --guidance and --seed.")
    settings = evaluation_settings(codec, samples)

    def through(media: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        latents = codec.encode(media)
        return codec.decode(latents), latents, codec.codes(media)

    with console.status("Evaluating") as status:
        report = evaluate_reconstruction(through, codec.recipe.data, count=settings["samples"],
                                         codebook=codec.system.latents.codebook,
                                         progress=lambda doing: status.update(f"Evaluating: {doing}"))
    return replace(report, settings=settings)


def evaluation_settings(codec: Codec, samples: int | None = None) -> dict[str, Any]:
    """What an evaluation is made with: nothing in it is drawn."""
    return {"samples": samples or codec.recipe.evaluate.samples, "trained_steps": codec.step}


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

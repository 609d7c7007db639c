"""What a run shows of an autoencoder: held-out pictures, or strips of films, that went through it."""

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

SHOWN = 12  # pictures on the page, and frames of a strip
FILMS = 3  # strips on the page


def judge(codec: Codec, console: Console, samples: int | None = None, guidance: float | None = None,
          seed: int = 0, tasks: int | None = None, rollout: int | None = None) -> Report:
    """Held-out media against what comes back of them, by the recipe's settings unless others are given."""
    if guidance is not None or seed:
        raise UserError("An autoencoder is not guided and draws no noise: leave out --guidance and --seed.")
    if tasks or rollout:
        raise UserError("An autoencoder makes nothing of given frames: leave out --tasks and --rollout.")
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
    """Held-out media and what comes back of them: pictures on a row, or each film as a strip above its own."""
    moves = codec.recipe.data.frames > 1
    real = held_out(codec, FILMS if moves else SHOWN)
    made = codec.reconstruct(real)
    originals, back = (strips(media) for media in (real, made))
    columns = originals.shape[1]
    rows = torch.stack([originals, back], dim=1).flatten(0, 2) if moves else torch.cat([real, made])
    save_sheet(rows, out / "samples" / "grid.png", columns if moves else len(real))
    return Showcase(name=codec.recipe.name, description=description(codec, real.shape), originals=real,
                    reconstructions=made)


def description(codec: Codec, shape: torch.Size) -> str:
    """What becomes of media of a shape, as "Pictures of 32x32 as latents of 8x8 in 4 channels, 12 times fewer ..."."""
    _, T, C, H, W = shape
    latents = codec.system.latents
    h, w = codec.system.latent_size(H, W)
    t = latents.latent_frames(T)
    fewer = T * C * H * W / (t * h * w * latents.channels)
    whole, part = (f"{T} frames of ", f"{t} x ") if T > 1 else ("", "")
    return (f"{'Films' if T > 1 else 'Pictures'} of {whole}{W}x{H} as latents of {part}{w}x{h} in {latents.channels} "
            f"channels, {fewer:.3g} times fewer numbers.")


def strips(media: Tensor) -> Tensor:
    """At most ``SHOWN`` frames of each of ``[n, T, C, H, W]``, spread over it, as pictures ``[n, T', 1, C, H, W]``."""
    T = media.shape[1]
    return media[:, torch.linspace(0, T - 1, min(T, SHOWN)).round().long()][:, :, None]


def save_preview(codec: Codec, out: Path, step: int, count: int = 8) -> None:
    """``samples/step-000500.png``: the first ``count`` held-out pictures as they come back, on one row.

    Of films, the first one's frames, spread over it.
    """
    if codec.recipe.data.frames > 1:
        film = codec.reconstruct(held_out(codec, 1))[0]
        made = film[torch.linspace(0, len(film) - 1, count).round().long()][:, None]
    else:
        real = held_out(codec, count)
        made = codec.reconstruct(real[torch.arange(count) % len(real)])
    save_sheet(made, out / "samples" / f"step-{step:06d}.png", count)


def save_sheet(media: Tensor, path: Path, columns: int) -> None:
    """Pictures on one sheet, whole or not at all."""
    with disk_errors(path), replacing(path) as temporary:
        grid(media, columns, enlargement(media.shape[-2])).save(temporary, format="PNG")

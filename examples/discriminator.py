"""What a discriminator is for: one autoencoder of photographs trained without and with it, side by side.

    python examples/discriminator.py discriminator.png

Eight-fold compression, to a 48th of the numbers.  By pixels alone the best answer to doubt is the mean of all that it
could be, which is a blur; a discriminator sees that nothing real is blurred, and the decoder has to decide.  From each
of three photographs a strip is left out of training; what is shown and measured are squares of these.  The runs stay in
a folder beside the picture, and the same command goes on where it was stopped.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from photographs import photographs, tiles, write
from torch import Tensor

from fromnoise.codec import Codec
from fromnoise.data.pictures import Folder
from fromnoise.evaluate.reconstruction import distances, looks, psnr
from fromnoise.figures import bare, figure, save
from fromnoise.latents import KL
from fromnoise.latents.reconstruction import Adversary
from fromnoise.media import from_uint8, to_uint8
from fromnoise.recipe import Coder
from fromnoise.recipes import shapes_kl
from fromnoise.train import Hooks, train

STEPS = 800
SIDE = 96  # of the squares, and width of the strips
STRIPS = {"china": 232, "flower": 290, "portrait": 216}  # where they begin
SHOWN = (1, 2, 3, 5, 6, 8)  # squares in the picture, of all that are measured
PARTS = {
    "pixels alone": {},
    "pixels and looks": {"perceptual_weight": 0.5},
    "pixels, looks and\na discriminator": {"perceptual_weight": 0.5, "adversarial": Adversary(weight=0.5, start=0.4)},
}


def recipe(data: Folder, parts: dict, steps: int) -> Coder:
    base = shapes_kl()
    latents = KL(channels=4, widths=(16, 32, 48, 48), depth=1, groups=8, attention=False)
    return replace(base, data=data, latents=latents, loss=replace(base.loss, pixel="l1", **parts),
                   train=replace(base.train, steps=steps, preview_every=0, threads=1))


def texture(made: Tensor, real: Tensor) -> float:
    """Squared differences between neighbouring pixels, of all pictures together, relative to the real ones."""
    def energy(x: Tensor) -> Tensor:
        return x.diff(dim=-1).square().mean() + x.diff(dim=-2).square().mean()

    return float(energy(made) / energy(real))


def pictures(folder: Path) -> tuple[Folder, Tensor]:
    """(tiles to train on, which are written into the folder; the squares ``[n, 1, 3, SIDE, SIDE]``)."""
    images = photographs()
    write(folder / "left", {name: image[:, : STRIPS[name]] for name, image in images.items()})
    write(folder / "right", {name: image[:, STRIPS[name] + SIDE :] for name, image in images.items()})
    strips = (image[:, STRIPS[name] : STRIPS[name] + SIDE] for name, image in images.items())
    squares = from_uint8(np.stack([square for strip in strips for square in tiles(strip, SIDE)]))[:, None]
    return Folder(root=str(folder), resolution=32, flip=True), squares


def trained(runs: Path, data: Folder, name: str, steps: int) -> Codec:
    """The autoencoder of a row."""
    folder = runs / "".join(c if c.isalnum() else "-" for c in name)
    return Codec(train(recipe(data, PARTS[name], steps), folder, Hooks(message=print)).system)


def main(out: str, steps: int = STEPS) -> None:
    runs = Path(out).with_suffix("")
    data, real = pictures(runs.absolute() / "tiles")
    eye, rows = looks(data), {"original": real}
    for name in PARTS:
        made = trained(runs, data, name, steps).reconstruct(real)
        apart = float(distances(eye, made[:, 0], real[:, 0]).mean())
        words = f"{psnr(made, real).mean():.1f} dB\nlooks {apart:.3f} away\ntexture {texture(made, real):.0%}"
        rows[f"{name}\n{words}"] = made
        print(name.replace("\n", " "), words.replace("\n", ", "), flush=True)
    chart, axes = figure(1.3 * len(SHOWN) + 1.8, 1.35 * len(rows), len(rows), len(SHOWN))
    for line, (name, media) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, to_uint8(media[list(SHOWN), 0]), strict=True):
            bare(axis)
            axis.imshow(picture, interpolation="nearest")
        line[0].text(-0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    save(chart, out, dpi=100)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "discriminator.png", *map(int, sys.argv[2:3]))

"""What a discriminator is for: one autoencoder trained without and with it, side by side.

    python examples/discriminator.py discriminator.png

Eight-fold compression to 64 numbers a picture.  By pixels alone the best answer to doubt is a blur; a discriminator
sees that nothing real is blurred, and the decoder has to decide.  Both runs stay in a folder beside the picture, and
the same command goes on where it was stopped.
"""

import sys
from dataclasses import replace
from pathlib import Path

from fromnoise.codec import Codec
from fromnoise.evaluate.reconstruction import psnr
from fromnoise.figures import bare, figure, save
from fromnoise.latents import KL
from fromnoise.latents.reconstruction import Adversary
from fromnoise.media import to_uint8
from fromnoise.recipe import Coder
from fromnoise.recipes import shapes_kl
from fromnoise.train import Hooks, train

STEPS, SHOWN = 600, 10
PARTS = {
    "pixels alone": {},
    "pixels and looks": {"perceptual_weight": 0.5},
    "pixels, looks and a discriminator": {"perceptual_weight": 0.5, "adversarial": Adversary(weight=0.5, start=0.4)},
}


def recipe(parts: dict, steps: int) -> Coder:
    base = shapes_kl()
    latents = KL(channels=4, widths=(16, 32, 48, 48), depth=1, groups=8, attention=False)
    return replace(base, latents=latents, loss=replace(base.loss, pixel="l1", **parts),
                   train=replace(base.train, steps=steps, preview_every=0))


def main(out: str, steps: int = STEPS) -> None:
    runs = Path(out).with_suffix("")
    real = shapes_kl().data.open("test").batch(range(64), range(64)).media
    rows = {"original": real}
    for name, parts in PARTS.items():
        result = train(recipe(parts, steps), runs / name.replace(" ", "-").replace(",", ""), Hooks(message=print))
        made = Codec(result.system).reconstruct(real)
        rows[f"{name}\n{psnr(made, real).mean():.1f} dB"] = made
    chart, axes = figure(1.0 * SHOWN + 1.6, 1.15 * len(rows), len(rows), SHOWN)
    for line, (name, media) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, to_uint8(media[:SHOWN, 0]), strict=True):
            bare(axis)
            axis.imshow(picture, interpolation="nearest")
        line[0].text(-0.1, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    save(chart, out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "discriminator.png", *map(int, sys.argv[2:3]))

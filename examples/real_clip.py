"""One short clip of a real photograph, learned by heart and then continued.

    python examples/real_clip.py clip.png

A camera goes round over a photograph: 20 frames of 32 px, one and a quarter rounds, an MP4 file.  A small model of
clips of eight frames learns that film alone, with the beginnings of clips given.  Then, window by window, it makes the
film again from its first four frames, and goes on where the film ends.  The camera's path goes on too, so what should
come is known.  The picture shows every fourth frame of the truth above that of the model; the run stays in a folder
beside it, and the same command goes on where it was stopped.
"""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

import fromnoise as fn
from fromnoise.evaluate.reconstruction import psnr
from fromnoise.films import contact_sheet, read_film, write_film
from fromnoise.given import Given
from fromnoise.media import from_uint8
from fromnoise.nets import house
from fromnoise.process import Frames
from fromnoise.recipe import Recipe
from fromnoise.recipes import video
from fromnoise.train import Hooks, train

STEPS = 1200
SIDE, ROUND, FRAMES, MORE, FPS = 32, 16, 20, 12, 8.0
WINDOW, KNOWN = 8, 4  # frames of a clip, and those that each window is given
CAPTION = "a camera goes round"


def camera(frames: int) -> Tensor:
    """``[T, 3, SIDE, SIDE]``: what a camera sees that goes round over a photograph once in ROUND frames."""
    photo = Image.fromarray(load_sample_image("china.jpg"))
    seen = []
    for frame in range(frames):
        turn = 2 * math.pi * frame / ROUND
        x, y = 330 + 110 * math.cos(turn), 210 + 70 * math.sin(turn)
        box = (x - 90, y - 90, x + 90, y + 90)
        seen.append(np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX, box=box)))
    return from_uint8(np.stack(seen))


def recipe(folder: Path, steps: int) -> Recipe:
    base = video()
    data = replace(base.data, root=str(folder), frames=WINDOW, fps=FPS, height=SIDE, width=SIDE, held_out=0.0,
                   caption=CAPTION)
    schedule = replace(base.train, steps=steps, batch=8, stills=0.0, text_dropout=0.0, threads=1, preview_every=0,
                       frames=Frames(prefix=0.7, first=0.1))
    return replace(base, data=data, net=house(patch=4, width=96, depth=4), train=schedule)


def main(out: str, steps: int = STEPS) -> None:
    runs, truth = Path(out).with_suffix("").absolute(), camera(FRAMES + MORE)
    (runs / "films").mkdir(parents=True, exist_ok=True)
    write_film(truth[:FRAMES], runs / "films" / "camera.mp4", FPS, enlarge=1)
    train(recipe(runs / "films", steps), runs / "run", Hooks(message=print))
    model, film = fn.load(runs / "run", "cpu"), read_film(runs / "films" / "camera.mp4").media
    again = model.rollout(CAPTION, FRAMES, KNOWN, given=Given(film[:KNOWN]), guidance=1.0).media[0]
    longer = model.rollout(CAPTION, FRAMES + MORE, KNOWN, given=Given(film), guidance=1.0)
    longer.save(runs / "longer.mp4")
    made = torch.cat([again, longer.media[0, FRAMES:]])
    learned = float(psnr(again[KNOWN:], film[KNOWN:]).mean())
    continued = float(psnr(made[FRAMES:], truth[FRAMES:]).mean())
    print(f"the film from its first {KNOWN} frames: {learned:.1f} dB; {MORE} frames after its end: {continued:.1f} dB")
    contact_sheet(torch.stack([truth, made])[:, ::4], enlarge=7).save(out)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "clip.png", *map(int, sys.argv[2:3]))

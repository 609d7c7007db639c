"""How well small pictures are enlarged: held-out pictures, brought down and enlarged again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from fromnoise.evaluate.judges import judge_of
from fromnoise.evaluate.reconstruction import frechet_rows, looks, psnr, ssim
from fromnoise.evaluate.report import Report, Row
from fromnoise.perception.distance import distances
from fromnoise.process import Upsampling

NOTE = ("Held-out pictures, brought down by averages and enlarged again with their captions. In the notes: the same of "
        "bicubic enlargement, which knows nothing of the data.")


def evaluate_enlarging(enlarge: Callable[[Tensor, list[str]], Tensor], upsample: Upsampling, data: Any, *, count: int,
                       progress: Callable[[str], None] | None = None) -> Report:
    """The report of ``count`` held-out pictures.

    enlarge: (small pictures ``[n, 1, C, h, w]``, their captions) to ``[n, 1, C, H, W]``;  upsample: how small pictures
    are made;  data: the data spec, which decides the judge.
    """
    tell, judge = progress or (lambda _: None), judge_of(data)
    pictures, captions = judge.known(count)
    real = pictures[:, None]
    small = upsample.shrink(real)
    tell(f"enlarging {len(real)} pictures")
    made, plain = enlarge(small, captions), upsample.enlarge(small).clamp(-1, 1)
    tell("measuring")
    eye = looks(data)

    def rows(media: Tensor) -> list[Row]:
        images = media[:, 0]
        return [
            Row("PSNR, dB", float(psnr(images, pictures).mean()), None, ".2f"),
            Row("PSNR brought down again, dB", float(psnr(upsample.shrink(media), small).mean()), None, ".2f"),
            Row("SSIM", float(ssim(images, pictures).mean()), 1.0, ".4f"),
            Row("perceptual distance", float(distances(eye, images, pictures).mean()), 0.0, ".4f", "lower"),
            *frechet_rows(images, pictures, judge),
            *judge.verdicts(media, captions),
        ]

    beside = [replace(row, note=f"bicubic: {other.words()[0]}") for row, other in zip(rows(made), rows(plain),
                                                                                     strict=True)]
    return Report(beside, len(real), NOTE)

"""How well pictures and films come back from an autoencoder, and what its latents are like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fromnoise.evaluate.distances import frechet
from fromnoise.evaluate.judges import FEWEST, Judge, judge_of
from fromnoise.evaluate.real import films, stills
from fromnoise.evaluate.report import Report, Row
from fromnoise.evaluate.temporal import clip_frechet, over_frames, temporal_rows
from fromnoise.perception.distance import Distance, distance, distances, pictures_of

WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels
K1, K2, RANGE = 0.01, 0.03, 2.0
EXACT = 100.0  # dB at which a picture that comes back bit for bit is counted


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture ``[n]``, of media ``[n, ...]`` in [-1, 1]; at most ``EXACT``.

    10 log10(peak^2 / mean squared error), with a peak of 2.
    """
    error = (made.double() - real.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(RANGE**2 / error)).clamp(max=EXACT)


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) of each of the pictures ``[n, C, H, W]`` in [-1, 1].

        (2 mu_x mu_y + c1) (2 cov + c2) / ((mu_x^2 + mu_y^2 + c1) (var_x + var_y + c2)),    c = (K RANGE)^2

    Means and covariances are under a Gaussian window of 11 pixels and sigma 1.5, population ones, at every place where
    the window lies inside the picture; the mean is over places and channels.  On pictures below 11 pixels the window
    is cut to the largest odd one that fits.
    """
    size = min(WINDOW, *(side - 1 + side % 2 for side in made.shape[-2:]))
    at = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-at.square() / (2 * SIGMA**2))
    line = line / line.sum()

    def mean(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)[:, None]
        rows = F.conv2d(flat, line.view(1, 1, -1, 1))
        return F.conv2d(rows, line.view(1, 1, 1, -1))[:, 0].unflatten(0, x.shape[:2])

    x, y = made.double(), real.double()
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (K1 * RANGE) ** 2, (K2 * RANGE) ** 2
    similar = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similar.mean((1, 2, 3))


def codebook_use(codes: Tensor, entries: int) -> tuple[float, float]:
    """(perplexity e^H of the codes, share of the ``entries`` that are used at all), of integers of any shape."""
    counts = torch.bincount(codes.flatten(), minlength=entries).double()
    p = counts[counts > 0] / counts.sum()
    return float(torch.exp(-(p * p.log()).sum())), float((counts > 0).double().mean())


def evaluate_reconstruction(through: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]], data: Any, *, count: int,
                            codebook: int = 0, progress: Callable[[str], None] | None = None) -> Report:
    """The report of ``count`` held-out pictures or films that went through an autoencoder.

    through: media ``[n, T, C, H, W]`` to (what comes back of them, their latents ``[n, t, c, h, w]``, their codes where
    there are any);  data: the data spec, which decides the judge;  codebook: the entries codes tell apart.
    """
    tell, judge = progress or (lambda _: None), judge_of(data)
    real, captions = known(data, judge, count)
    tell(f"taking {len(real)} {'films' if data.frames > 1 else 'pictures'} through the latents")
    made, latents, codes = through(real)
    tell("measuring")
    eye, frames, true = looks(data), made.flatten(0, 1), real.flatten(0, 1)
    rows = [
        Row("PSNR, dB", float(psnr(frames, true).mean()), None, ".2f"),
        Row("SSIM", float(ssim(frames, true).mean()), 1.0, ".4f"),
        Row("perceptual distance", float(distances(eye, frames, true).mean()), 0.0, ".4f", "lower", f"to {eye.words}"),
        *(film_rows(made, real, data) if data.frames > 1 else []),
        *frechet_rows(stills(made), stills(real), judge),
        *(bound(row) for row in judge.verdicts(made, captions)),
        *latent_rows(latents),
    ]
    if codes is not None:
        perplexity, used = codebook_use(codes, codebook)
        rows += [Row("codes, perplexity", perplexity, float(codebook), ".1f", "higher", "real: all used alike"),
                 Row("codes, share in use", used, 1.0, ".1%", "higher", f"{codebook} entries, {codes.numel()} places")]
    note = ("Held-out pictures and what comes back of them. What is right in the latter is an upper bound on the "
            "pictures of any model that draws in these latents.")
    return Report(rows, len(real), note)


def known(data: Any, judge: Judge, count: int) -> tuple[Tensor, list[str]]:
    """At most ``count`` held-out pictures or films ``[n, T, C, H, W]``, and their captions."""
    if data.frames > 1:
        return films(data.open("test"), count, size=(data.height, data.width))
    pictures, captions = judge.known(count)
    return pictures[:, None], captions


def film_rows(made: Tensor, real: Tensor, data: Any) -> list[Row]:
    """What films ``[n, T, C, H, W]`` lose over time: the worst frame, errors that flicker, movement and its looks."""
    each = over_frames(psnr, made, real)
    flickering = float((made - real).diff(dim=1).abs().mean())
    rows = [
        Row("PSNR, dB, first frame", float(each[0]), None, ".2f"),
        Row("PSNR, dB, worst frame", float(each.min()), None, ".2f", note=f"number {int(each.argmin()) + 1}; each: "
            f"{words(each, 32)}"),
        Row("flicker of the error", flickering, 0.0, ".4f", "lower", "mean change of the error from frame to frame"),
        *temporal_rows(made, real),
    ]
    other = films(data.open("test"), 2 * len(real), size=(data.height, data.width))[0][1::2]
    return rows if min(len(real), len(other)) < FEWEST else [*rows, clip_frechet(made, real, other, data)]


def looks(data: Any) -> Distance:
    """The distance that this data's pictures are compared by: the same for every autoencoder, and trained with none."""
    return distance("auto", data.channels, lambda: pictures_of(data.open("train")), seed=1)


def frechet_rows(made: Tensor, real: Tensor, judge: Judge) -> list[Row]:
    """The Frechet distance of what comes back, beside that of as many other real pictures; none of too few."""
    other = judge.held_out(2 * len(real))[len(real) :]  # those behind the first, which are the real ones
    if min(len(real), len(other)) < FEWEST:
        return []
    look = judge.features()
    seen = look(real)
    return [Row("Frechet distance", frechet(look(made), seen), frechet(look(other), seen), ".4f", "lower",
                "to the same pictures before; real: other held-out pictures")]


def bound(row: Row) -> Row:
    """A judge's row on what comes back."""
    return Row(f"{row.name}, after the latents", row.value, row.real, row.format, row.better, row.note)


def latent_rows(latents: Tensor) -> list[Row]:
    """Mean and standard deviation of each channel of latents ``[n, T, c, h, w]``, and what their shape is like."""
    values = latents.double().movedim(2, 0).flatten(1)
    mean, std = values.mean(1), values.std(1)
    kurtosis = ((values - mean[:, None]) / std[:, None].clamp(min=1e-12)).pow(4).mean(1)
    return [
        Row("latents, std of a channel", float(std.mean()), None, ".3f", "near",
            f"mean {words(mean)}; std {words(std)}"),
        Row("latents, kurtosis", float(kurtosis.mean()), 3.0, ".2f", "near", f"real: of a Gaussian; {words(kurtosis)}"),
    ]


def words(values: Sequence[float] | Tensor, most: int = 16) -> str:
    """Numbers on one line, at most so many of them."""
    shown = " ".join(f"{float(v):.2f}" for v in values[:most])
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"

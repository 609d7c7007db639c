"""A KL autoencoder of films that sees no later frame: images and films in one latent space.

The first frame becomes a latent frame of its own and every group of ``time_factor`` frames after it one more, each of
which says nothing of later frames; what is decoded says nothing of later latents.  So a picture is a film of one frame,
and a long film goes through in parts, in bounded memory, with the result of the whole (``causal.Past``).

With ``norm`` rms, ``narrowing`` and ``halved`` False True True it is the autoencoder of Wan 2.1 (Wan 2025, section
4.1).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.latents.causal import CausalConv, CausalLevel, CausalMiddle, Down, Norm, Past, Up, norm, per_frame
from fromnoise.latents.kl import GaussianLatents
from fromnoise.latents.pictures import Count, Mean, Std, Widths, check_statistics, check_widths

AT_ONCE = 16  # latent frames that go through at a time


@spec
class CausalKL:
    """A KL autoencoder of films, causal in time."""

    kind: Literal["causal_kl"] = "causal_kl"
    channels: Count = 16
    """Channels of the latents."""
    widths: Widths = (96, 192, 384, 384)
    """Features of each level; every level but the last halves the sides of the frames."""
    halved: tuple[bool, ...] = (False, True, True)
    """Where sides are halved, from the picture inwards: whether the number of frames is halved too."""
    decoder_widths: Widths | None = None
    """Features of the decoder's levels, also from the picture inwards; by default the encoder's."""
    depth: Count = 2
    """Residual blocks of a level in the encoder; the decoder has one more."""
    norm: Norm = "group"
    """Norms within a frame, over groups of its channels, or within a place, by the root mean square of its channels."""
    groups: Count = 32
    """Groups of the normalisation."""
    attention: bool = True
    """Whether the innermost level has attention, which is within a frame."""
    narrowing: bool = False
    """Features are halved where the decoder doubles the sides, and not by the level after it."""
    unshuffle: Count = 1
    """Pixels of unshuffle x unshuffle neighbours are laid into channels before the first level, and out after it."""
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Std = (1.0,)
    """What they are then divided by."""
    weight: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the divergence from a standard normal, in nats a latent, beside the mean error of a pixel."""

    def __post_init__(self):
        check_widths(self.groups if self.norm == "group" else 1, self.widths, self.decoder_widths)
        check_statistics(self.channels, self.mean, self.std)
        if len(self.halved) != len(self.widths) - 1:
            raise PydanticCustomError("halved", "should have one True or False for each level but the last")
        inner = self.decoder_widths or self.widths
        if self.narrowing and any(width % (2 * self.groups if self.norm == "group" else 2) for width in inner[1:]):
            raise PydanticCustomError("narrowing", "should have, with narrowing, widths whose halves fit its groups")

    def build(self, channels: int) -> CausalKLLatents:
        """The autoencoder of films with ``channels``."""
        return CausalKLLatents(self, channels)


class CausalKLLatents(GaussianLatents):
    """A Gaussian for every latent of a film."""

    def __init__(self, spec: CausalKL, channels: int):
        super().__init__(2 ** (len(spec.widths) - 1) * spec.unshuffle, spec.channels, spec.mean, spec.std)
        self.spec, self.time_factor = spec, 2 ** sum(spec.halved)
        c, inside = spec.channels, channels * spec.unshuffle**2
        self.encoder, self.decoder = CausalEncoder(spec, inside, 2 * c), CausalDecoder(spec, c, inside)
        self.quant, self.post_quant = nn.Conv2d(2 * c, 2 * c, 1), nn.Conv2d(c, c, 1)

    def moments(self, media: Tensor, at_once: int = AT_ONCE) -> tuple[Tensor, Tensor]:
        """As of every Gaussian autoencoder; ``at_once``: latent frames that are made at a time.

        UserError for a number of frames that it does not take.
        """
        self.frames(media)  # refuses sides that it does not take
        spans, past = self.spans(media.shape[1]), Past()
        groups = (spans[i : i + at_once] for i in range(0, len(spans), at_once))
        parts = (media[:, group[0].start : group[-1].stop] for group in groups)
        found = torch.cat([self.encoder(F.pixel_unshuffle(part, self.spec.unshuffle), past) for part in parts], dim=1)
        mean, logvar = per_frame(self.quant, found).chunk(2, dim=2)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latents: Tensor, at_once: int = AT_ONCE) -> Tensor:
        """Media of normalised latents, ``at_once`` latent frames at a time; what lies outside [-1, 1] is not cut."""
        raw, past = per_frame(self.post_quant, self.raw(latents)), Past()
        parts = [self.decoder(part, past) for part in raw.split(at_once, dim=1)]
        return F.pixel_shuffle(torch.cat(parts, dim=1), self.spec.unshuffle)


class CausalEncoder(nn.Module):
    """Films ``[B, T, C, H, W]`` to features ``[B, t, out, h, w]``; ``past``: of the part before."""

    def __init__(self, spec: CausalKL, channels: int, out: int):
        super().__init__()
        widths, kind, groups = spec.widths, spec.norm, spec.groups
        self.enter = CausalConv(channels, widths[0])
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(CausalLevel(*sizes, spec.depth, kind, groups)
                                    for sizes in zip(before, widths, strict=True))
        self.down = nn.ModuleList(Down(width, half) for width, half in zip(widths[:-1], spec.halved, strict=True))
        self.middle = CausalMiddle(widths[-1], kind, groups, spec.attention)
        self.norm, self.leave = norm(kind, widths[-1], groups), CausalConv(widths[-1], out)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.enter(x, past)
        for i, level in enumerate(self.levels):
            x = level(x, past)
            x = self.down[i](x, past) if i < len(self.down) else x
        x = self.leave(F.silu(per_frame(self.norm, self.middle(x, past))), past)
        past.begun = True
        return x


class CausalDecoder(nn.Module):
    """Latents ``[B, t, c, h, w]`` to films; ``past``: of the part before."""

    def __init__(self, spec: CausalKL, channels: int, out: int):
        super().__init__()
        widths, kind, groups = (spec.decoder_widths or spec.widths)[::-1], spec.norm, spec.groups
        after = tuple(width // 2 if spec.narrowing else width for width in widths[:-1])
        self.enter = CausalConv(channels, widths[0])
        self.middle = CausalMiddle(widths[0], kind, groups, spec.attention)
        before = (widths[0], *after)
        self.levels = nn.ModuleList(CausalLevel(*sizes, spec.depth + 1, kind, groups)
                                    for sizes in zip(before, widths, strict=True))
        self.up = nn.ModuleList(Up(*sizes) for sizes in zip(widths[:-1], after, spec.halved[::-1], strict=True))
        self.norm, self.leave = norm(kind, widths[-1], groups), CausalConv(widths[-1], out)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.middle(self.enter(x, past), past)
        for i, level in enumerate(self.levels):
            x = level(x, past)
            x = self.up[i](x, past) if i < len(self.up) else x
        x = self.leave(F.silu(per_frame(self.norm, x)), past)
        past.begun = True
        return x

"""What is given of a sample: frames, and pixels within frames, which come back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fromnoise.media import from_uint8
from fromnoise.settings import Noise, Settings, as_numbers
from fromnoise.system import System
from fromnoise.types import UserError
from fromnoise.weights import digest

Picture = Noise | Image.Image


@dataclass(frozen=True)
class Given:
    """Frames that are given, and where they stand.

    media: ``[K, C, H, W]`` for all samples, or ``[B, K, C, H, W]``, in [-1, 1];  frames: K places, from 0, or from -1
    backwards; by default the first K;  known: ``[H, W]`` or ``[K, H, W]``, True where pixels are given and the rest of
    the frame is to be made; by default all are.

    The first frame is ``Given(picture)``, a clip to go on from ``Given(clip)``, one to lead up to
    ``Given(clip, range(-K, 0))``, one to slow down ``Given(clip, range(0, 2 * K, 2))``.
    """

    media: Noise
    frames: Sequence[int] | None = None
    known: Noise | None = None


GivenFrames = Given | Mapping[int, Picture]


@dataclass(frozen=True)
class Known:
    """What is known of samples: their values ``[B or 1, T, C, H, W]``, and where.

    mask: ``[T, 1, H, W]`` bool, or ``[T, 1, 1, 1]`` where frames are known as a whole or not at all.
    """

    values: Tensor
    mask: Tensor
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def whole(self) -> Tensor:
        """``[T]`` bool, the frames that are known as a whole."""
        return self.mask.flatten(1).all(1)

    @property
    def digest(self) -> str:
        """A hash of all of it."""
        return digest({"values": self.values.contiguous(), "mask": self.mask.to(torch.uint8).contiguous()}, {})[:16]

    def rows(self, start: int, stop: int) -> Known:
        """That of some of the samples."""
        return Known(self.values if len(self.values) == 1 else self.values[start:stop], self.mask)

    def frames(self, span: range) -> Known:
        """That of some of the frames."""
        return Known(self.values[:, span.start : span.stop], self.mask[span.start : span.stop])

    def paste(self, media: Tensor) -> Tensor:
        """``media`` with what is known in its place, bit for bit."""
        return torch.where(self.mask, self.values.to(media), media)

    def latent(self, system: System) -> Known:
        """The same of latents, on the device of the system.

        A latent is known where all pixels of its frames are that it stands for.  UserError where a frame is given that
        shares a latent with one that is not.  Frames that are not known are shown to the autoencoder as the nearest
        that is, for one that looks beyond the frames it encodes.
        """
        latents, T = system.latents, len(self.mask)
        spans = latents.spans(T)
        for span in spans:
            some = [f for f in span if bool(self.mask[f].any())]
            if some and len(some) < len(span):
                raise UserError(f"This model's autoencoder makes one latent of the frames {span.start} to "
                                f"{span.stop - 1}, of which only {', '.join(map(str, some))} "
                                f"{'is' if len(some) == 1 else 'are'} given: give all of them, or none.")
        there = self.mask.flatten(1).any(1).nonzero()[:, 0]
        nearest = there[(torch.arange(T)[:, None] - there).abs().argmin(1)]
        media = self.values[:, nearest].to(system.device)
        few = max(1, system.at_once(*media.shape[-2:]) // T)
        values = torch.cat([system.encode(part).mean for part in media.split(few)])
        mask = torch.stack([self.mask[span.start : span.stop].all(0) for span in spans])
        if mask.shape[-1] > 1 and latents.factor > 1:
            mask = F.max_pool2d((~mask).float(), latents.factor) == 0
        return Known(values, mask.to(system.device))


def known_of(given: GivenFrames, settings: Settings, channels: int) -> Known:
    """What is known of the samples of ``settings``.

    UserError for frames of another size, more than there are, places beyond the clip or twice the same, values that are
    no pixels, a mask of another size, or where nothing is left to make.
    """
    T, (H, W), B = settings.frames, settings.size, len(settings.prompts)
    media, places, known = parts_of(given, channels)
    K = media.shape[1]
    if tuple(media.shape[-3:]) != (channels, H, W):
        raise UserError(f"The samples are {W}x{H} in {channels} channels, and the frames that are given are "
                        f"{media.shape[-1]}x{media.shape[-2]} in {media.shape[-3]}: bring them to that size, or ask "
                        "for theirs with size.")
    if len(media) not in (1, B):
        raise UserError(f"Frames are given for {len(media)} samples, and {B} are to be made: give one clip for all, or "
                        "one for each.")
    if not float(media.abs().max()) <= 1:
        raise UserError("Frames that are given have values in [-1, 1], and these go beyond.")
    if len(places) != K:
        raise UserError(f"{K} frames are given and {len(places)} places for them: name a place for each.")
    if T == 1 and (K > 1 or bool(known.all())):
        raise UserError("A picture is a clip of one frame, of which only a part can be given: give it with a mask "
                        "(known, --inside), or ask a run that was trained on clips for more frames (--frames).")
    if K > T:
        raise UserError(f"{K} frames are given of clips of {T}: ask for more with frames (--frames), or give fewer.")
    if wrong := [f for f in places if not -T <= f < T]:
        raise UserError(f"There is no frame {wrong[0]} in a clip of {T}: frames count from 0 to {T - 1}, or from -1 "
                        f"backwards to -{T}.")
    at = [f % T for f in places]
    if len(set(at)) < K:
        raise UserError(f"Two of the given frames have one place: {', '.join(map(str, sorted(at)))}.")
    if known.shape[-2:] not in ((1, 1), (H, W)) or len(known) not in (1, K):
        raise UserError(f"A mask of what is known is [{H}, {W}], or [{K}, {H}, {W}] for the frames that are given "
                        f"(got {list(known.shape)}): give it the size of the samples, {W}x{H}.")
    known = known.expand(K, *known.shape[1:])[:, None]
    mask = torch.zeros(T, *known.shape[1:], dtype=torch.bool)
    mask[at] = known
    if bool(mask.all()):
        raise UserError("All of the clip is given: ask for more frames (--frames), or leave some out.")
    if not bool(mask.any()):
        raise UserError("Nothing is given: the mask of what is known is empty.")
    values = media.new_zeros(len(media), T, *media.shape[2:])
    values[:, at] = torch.where(known, media, 0.0)
    return Known(values, mask)


def parts_of(given: GivenFrames, channels: int) -> tuple[Tensor, list[int], Tensor]:
    """(media ``[B or 1, K, C, H, W]``, K places, mask ``[K or 1, H or 1, W or 1]``)."""
    everything = torch.ones(1, 1, 1, dtype=torch.bool)
    if isinstance(given, Given):
        media = as_numbers(given.media, "given")
        media = media[(None,) * (5 - media.ndim)] if 3 <= media.ndim < 5 else media
        if media.ndim != 5 or not media.numel():
            raise UserError(f"Given frames are [K, C, H, W], or [B, K, C, H, W] (got {list(media.shape)}).")
        places = list(range(media.shape[1])) if given.frames is None else places_of(given.frames)
        if given.known is None:
            return media, places, everything
        known = as_numbers(given.known, "known") > 0
        return media, places, known[None] if known.ndim == 2 else known.reshape(-1, *known.shape[-2:])
    if not isinstance(given, Mapping) or not given:
        raise UserError("given is a Given, or a picture for each of some frames: {0: picture}.")
    pictures = [one_frame(picture, channels) for picture in given.values()]
    if len({picture.shape for picture in pictures}) > 1:
        sizes = ", ".join(f"{p.shape[-1]}x{p.shape[-2]}" for p in pictures)
        raise UserError(f"Frames that are given have one size (got {sizes}).")
    return torch.cat(pictures, dim=1), places_of(given), everything


def places_of(frames: Iterable[int]) -> list[int]:
    """Places of frames as whole numbers.  UserError for others."""
    try:
        return [index(f) for f in frames]
    except TypeError:
        raise UserError("Places of given frames are whole numbers, from 0, or from -1 backwards "
                        f"(got {', '.join(map(str, frames)):.40}).") from None


def one_frame(picture: Picture, channels: int) -> Tensor:
    """``[B or 1, 1, C, H, W]`` of a picture of PIL, or of ``[C, H, W]``, with axes of samples and of one frame or not.
    """
    if isinstance(picture, Image.Image):
        return pixels(picture, channels)[None, None]
    media = as_numbers(picture, "given")
    media = media[(None,) * (5 - media.ndim)] if 3 <= media.ndim < 5 else media
    if media.ndim != 5 or media.shape[1] != 1 or not media.numel():
        raise UserError(f"A given frame is a picture, [C, H, W] or [B, 1, C, H, W] (got {list(media.shape)}).")
    return media


def pixels(picture: Image.Image, channels: int) -> Tensor:
    """``[C, H, W]`` in [-1, 1]."""
    found = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return from_uint8(found[..., None] if channels == 1 else found)

"""Autoencoders whose latents are moved to the nearest of finitely many: what VQ and FSQ share.

``encode`` gives latents as they are before that, which is what diffusion is trained on; ``decode`` moves them to the
nearest entry first (Rombach et al. 2022, section 3.1: the quantisation is a layer of the decoder).  ``codes`` are the
numbers of those entries, for models of tokens, and ``lookup`` leads back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fromnoise.latents.coding import Coded
from fromnoise.latents.convolutional import Decoder, Encoder
from fromnoise.latents.pictures import PictureAutoencoder


class Quantiser(nn.Module):
    """Places ``[..., c]`` to one of ``size`` entries each, and back."""

    size: int

    def confined(self, x: Tensor) -> Tensor:
        """What the encoder says, brought to where the entries lie."""
        return x

    def nearest(self, raw: Tensor) -> Tensor:
        """The numbers ``[...]`` of the nearest entries."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries ``[..., c]`` by number; where they are learned by gradient, with one."""
        raise NotImplementedError

    def penalties(self, raw: Tensor, entries: Tensor) -> dict[str, Tensor]:
        """What is added to the loss, by name."""
        return {}

    def learn(self, raw: Tensor, codes: Tensor, noise: Tensor) -> None:
        """Move entries to what they were used for; ``noise`` ``[..., c]`` is standard normal."""


class QuantisedLatents(PictureAutoencoder):
    """An encoder, a quantiser and a decoder.

    inner: features between the networks and the 1x1 convolutions to and from the latents.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, quantiser: Quantiser, factor: int, inner: int,
                 channels: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__(factor, channels, mean, std)
        self.encoder, self.decoder, self.quantiser, self.codebook = encoder, decoder, quantiser, quantiser.size
        self.quant, self.post_quant = nn.Conv2d(inner, channels, 1), nn.Conv2d(channels, inner, 1)

    def to_raw(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """Latents that are not moved to entries yet; they are no distribution, and ``noise`` is not asked."""
        return self.quantiser.confined(self.quant(self.encoder(pictures)).movedim(1, -1)).movedim(-1, 1)

    def from_raw(self, raw: Tensor) -> Tensor:
        places = raw.movedim(1, -1)
        return self._decoded(straight_through(places, self.quantiser.lookup(self.quantiser.nearest(places))))

    def _decoded(self, entries: Tensor) -> Tensor:
        return self.decoder(self.post_quant(entries.movedim(-1, 1)))

    def codes(self, media: Tensor) -> Tensor:
        """The entry at each place, ``[B, T, h, w]``, 0 to ``codebook - 1``."""
        return self.quantiser.nearest(self.to_raw(self.frames(media)).movedim(1, -1)).unflatten(0, media.shape[:2])

    def lookup(self, codes: Tensor) -> Tensor:
        """Normalised latents ``[B, T, c, h, w]`` of codes, which ``decode`` to what was coded.

        ValueError for a code that there is none of.
        """
        if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= self.codebook):
            raise ValueError(f"codes from {int(codes.min())} to {int(codes.max())} are not all from 0 to "
                             f"{self.codebook - 1}")
        return self.normalised(self.quantiser.lookup(codes).movedim(-1, 2))

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """One pass: latents are the entries, with the gradient of what was moved there.

        In training mode the quantiser then learns; where entries are restarted ``noise`` says at which places.
        """
        raw = self.to_raw(self.frames(media)).movedim(1, -1)
        codes = self.quantiser.nearest(raw)
        entries = self.quantiser.lookup(codes)
        passed, penalties = straight_through(raw, entries), self.quantiser.penalties(raw, entries)
        if self.training:
            self.quantiser.learn(raw.detach(), codes, noise.flatten(0, 1).movedim(1, -1))
        latents = self.normalised(passed.movedim(-1, 1).unflatten(0, media.shape[:2]))
        return Coded(self._decoded(passed).unflatten(0, media.shape[:2]), latents, penalties,
                     codes.unflatten(0, media.shape[:2]))


def straight_through(raw: Tensor, entries: Tensor) -> Tensor:
    """``entries``, whose gradient goes to ``raw`` as if nothing had been moved (Bengio et al. 2013)."""
    return raw + (entries - raw).detach()


def check_attended(attended: Sequence[int], levels: int) -> None:
    """A spec's fault where a level that is to have attention is not there."""
    if any(level >= levels for level in attended):
        raise PydanticCustomError("attended", "should have attended of levels from 0 to {last}", {"last": levels - 1})


def networks(channels: int, inner: int, widths: tuple[int, ...], decoder_widths: tuple[int, ...] | None, depth: int,
             groups: int, attention: bool, attended: Sequence[int]) -> tuple[Encoder, Decoder]:
    """Encoder and decoder of media with ``channels``, with ``inner`` features where they meet the quantiser."""
    return (Encoder(channels, inner, widths, depth, groups, attention, attended),
            Decoder(inner, channels, decoder_widths or widths, depth + 1, groups, attention, attended))


@torch.no_grad()
def closest(places: Tensor, entries: Tensor, memory: int = 2**24) -> Tensor:
    """For each of ``[n, c]`` the number of the nearest of ``[K, c]``: the least |e|^2 - 2 z e.

    memory: products held at once.  Of several equally near ones it is the first.
    """
    half = entries.square().sum(1) / 2
    parts = places.split(max(1, memory // len(entries)))
    return torch.cat([torch.addmm(half, part, entries.T, alpha=-1).argmin(1) for part in parts])

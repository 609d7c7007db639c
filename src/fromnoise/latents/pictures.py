"""What autoencoders have in common: frames, sizes, and the statistics of their latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from fromnoise.latents.coding import Coded
from fromnoise.types import UserError

Count = Annotated[int, Field(gt=0)]
Mean = Annotated[tuple[float, ...], Field(min_length=1)]
Std = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
Widths = Annotated[tuple[Count, ...], Field(min_length=1)]


MOVING = ("mean", "std")  # what is part of the state where the statistics of latents move


class PictureAutoencoder(nn.Module):
    """``encode`` media ``[B, T, C, H, W]`` to latents ``[B, T, c, h, w]``, and ``decode``; every frame on its own.

        z = (raw - mean) / std

    A subclass says what is raw: ``to_raw`` makes it of pictures, ``from_raw`` makes pictures of it.
    """

    codebook = 0
    time_factor = 1
    spec: Any
    mean: tuple[float, ...] | Tensor
    std: tuple[float, ...] | Tensor

    def __init__(self, factor: int, channels: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.factor, self.channels, self.mean, self.std = factor, channels, tuple(mean), tuple(std)

    def to_raw(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """Raw latents ``[N, c, h, w]`` of pictures ``[N, C, H, W]``; ``noise`` as for ``encode``."""
        raise NotImplementedError

    def from_raw(self, raw: Tensor) -> Tensor:
        """Pictures ``[N, C, H, W]`` of raw latents ``[N, c, h, w]``."""
        raise NotImplementedError

    def encode(self, media: Tensor, noise: Tensor | None = None) -> Tensor:
        """Normalised latents; where they are a distribution its mean, or with standard normal ``noise`` a draw.

        ValueError where a side of the picture is not a multiple of ``factor``.
        """
        raw = self.to_raw(self.frames(media), None if noise is None else noise.flatten(0, 1))
        return self.normalised(raw.unflatten(0, media.shape[:2]))

    def decode(self, latents: Tensor) -> Tensor:
        """Media of normalised latents; what lies outside [-1, 1] is not cut."""
        return self.from_raw(self.raw(latents).flatten(0, 1)).unflatten(0, latents.shape[:2])

    def code(self, media: Tensor, noise: Tensor) -> Coded:
        """One pass of training; ``noise`` is standard normal, in the shape of the raw latents."""
        latents = self.encode(media, noise)
        return Coded(self.decode(latents), latents)

    def latent_frames(self, frames: int) -> int:
        """How many latent frames a film of ``frames`` has: one for the first alone, then one for ``time_factor`` each.

        UserError for a number of frames that leaves a group unfinished.
        """
        groups, rest = divmod(frames - 1, self.time_factor)
        if frames < 1 or rest:
            near = [1 + self.time_factor * k for k in (groups, groups + 1) if k >= 0]
            raise UserError(f"A film of {frames} frames does not fit this autoencoder, which takes the first alone and "
                            f"then {self.time_factor} at a time: give it {' or '.join(map(str, near))}.")
        return 1 + groups

    def spans(self, frames: int) -> list[range]:
        """Which frames each latent frame of a film of ``frames`` stands for.  UserError as for ``latent_frames``."""
        f = self.time_factor
        return [range(max(0, 1 + (i - 1) * f), 1 + i * f) for i in range(self.latent_frames(frames))]

    def frames(self, media: Tensor) -> Tensor:
        """The pictures ``[B T, C, H, W]``.  ValueError as for ``encode``."""
        if media.shape[-2] % self.factor or media.shape[-1] % self.factor:
            raise ValueError(f"a picture of {media.shape[-1]}x{media.shape[-2]} has a side that is not a multiple of "
                             f"{self.factor}")
        return media.flatten(0, 1)

    def normalised(self, raw: Tensor) -> Tensor:
        """(raw - mean) / std."""
        mean, std = self.statistics(raw)
        return (raw - mean) / std

    def raw(self, latents: Tensor) -> Tensor:
        """The inverse of ``normalised``."""
        mean, std = self.statistics(latents)
        return latents * std + mean

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) ``[1 or c, 1, 1]`` in the dtype and on the device of ``like``."""
        mean, std = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in (self.mean, self.std))
        return mean[:, None, None], std[:, None, None]

    def follow(self) -> None:
        """From now on mean and std are part of the state, a number a channel, as their channels move in training."""
        for name in MOVING:
            values = torch.tensor(getattr(self, name)).expand(self.channels).clone()
            delattr(self, name)
            self.register_buffer(name, values)

    def settled(self) -> tuple[Any, dict[str, Tensor]]:
        """The spec with the statistics as they now are, and the weights that go with it."""
        return settled(self.spec, self.state_dict())


def settled(spec: Any, state: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A spec and the state of its autoencoder, with the statistics of the state, where it has some, in the spec."""
    moved = {name: tuple(state[name].tolist()) for name in MOVING if name in state}
    return replace(spec, **moved), {name: tensor for name, tensor in state.items() if name not in moved}


def check_statistics(channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """A spec's fault where it has neither one number nor one a channel."""
    if not {len(mean), len(std)} <= {1, channels}:
        raise PydanticCustomError("statistics", "should have mean and std of one number, or one a channel")


def check_widths(groups: int, widths: Sequence[int], decoder_widths: Sequence[int] | None) -> None:
    """A spec's fault where widths do not fit the groups of the norms, or the decoder's not the encoder's."""
    inner = widths if decoder_widths is None else decoder_widths
    if any(width % groups for width in (*widths, *inner)):
        raise PydanticCustomError("groups", "should have widths that are multiples of its groups")
    if len(inner) != len(widths):
        raise PydanticCustomError("decoder_widths", "should have as many levels as the encoder's widths")

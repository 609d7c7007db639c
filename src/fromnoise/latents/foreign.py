"""Rarer autoencoders, as diffusers has them: deep compression, vector quantisation, Qwen-Image's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.types import UserError


@dataclass(frozen=True)
class Manner:
    """How one class of diffusers is spoken to.

    encode, decode: (model, pictures ``[N, C, H, W]``) to raw latents ``[N, c, h, w]``, and back;  channels, levels:
    of the latents and how often a side is halved, by the model's config.
    """

    encode: Callable[[Any, Tensor], Tensor]
    decode: Callable[[Any, Tensor], Tensor]
    channels: Callable[[Mapping[str, Any]], int]
    halvings: Callable[[Mapping[str, Any]], int]


MANNERS = {
    "AutoencoderDC": Manner(
        lambda model, x: model.encode(x).latent, lambda model, z: model.decode(z).sample,
        lambda c: c["latent_channels"], lambda c: len(c["encoder_block_out_channels"]) - 1),
    # What is decoded is first moved to the nearest entries of the codebook.
    "VQModel": Manner(
        lambda model, x: model.encode(x).latents, lambda model, z: model.decode(z).sample,
        lambda c: c["vq_embed_dim"] or c["latent_channels"], lambda c: len(c["block_out_channels"]) - 1),
    # A video autoencoder, of which every frame is a video of one frame.
    "AutoencoderKLQwenImage": Manner(
        lambda model, x: model.encode(x[:, :, None]).latent_dist.mode()[:, :, 0],
        lambda model, z: model.decode(z[:, :, None]).sample[:, :, 0],
        lambda c: c["z_dim"], lambda c: len(c["temperal_downsample"])),
}


@spec
class Foreign:
    """An autoencoder of diffusers."""

    kind: Literal["foreign"] = "foreign"
    name: Literal["AutoencoderDC", "VQModel", "AutoencoderKLQwenImage"]
    """Its class."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Its config, as in config.json."""
    mean: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1.0,)
    """What they are then divided by."""

    def build(self, channels: int) -> ForeignLatents:
        """The autoencoder, of as many channels as its config says.  UserError where diffusers is not installed."""
        try:
            import diffusers
        except ImportError:
            raise UserError(f"The autoencoder {self.name} needs diffusers: "
                            "pip install 'fromnoise[diffusers]'.") from None
        settings = {key: value for key, value in self.config.items() if not key.startswith("_")}
        return ForeignLatents(self, getattr(diffusers, self.name).from_config(settings))


class ForeignLatents(nn.Module):
    """``encode`` media ``[B, T, C, H, W]`` to latents ``[B, T, c, h, w]``, and ``decode``; every frame on its own."""

    def __init__(self, spec: Foreign, model: Any):
        super().__init__()
        self.spec, self.model, self.manner = spec, model, MANNERS[spec.name]
        self.channels = self.manner.channels(model.config)
        self.factor = 2 ** self.manner.halvings(model.config)

    def encode(self, media: Tensor) -> Tensor:
        """Normalised latents."""
        raw = self.manner.encode(self.model, media.flatten(0, 1)).unflatten(0, media.shape[:2])
        mean, std = self.statistics(raw)
        return (raw - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Media of normalised latents."""
        mean, std = self.statistics(latents)
        raw = (latents * std + mean).flatten(0, 1)
        return self.manner.decode(self.model, raw).unflatten(0, latents.shape[:2])

    def statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(mean, std) ``[1 or c, 1, 1]`` in the dtype and on the device of ``like``."""
        return like.new_tensor(self.spec.mean)[:, None, None], like.new_tensor(self.spec.std)[:, None, None]

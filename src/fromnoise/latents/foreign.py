"""Rarer autoencoders, as diffusers has them: deep compression, vector quantisation, Qwen-Image's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.latents.pictures import Mean, PictureAutoencoder, Std
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
    mean: Mean = (0.0,)
    """What is taken from the latents: one number, or one a channel."""
    std: Std = (1.0,)
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


class ForeignLatents(PictureAutoencoder):
    """Latents of a model of diffusers."""

    def __init__(self, spec: Foreign, model: Any):
        manner = MANNERS[spec.name]
        super().__init__(2 ** manner.halvings(model.config), manner.channels(model.config), spec.mean, spec.std)
        self.spec, self.model, self.manner = spec, model, manner

    def to_raw(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """What the model says without randomness: a distribution's most likely latents."""
        return self.manner.encode(self.model, pictures)

    def from_raw(self, raw: Tensor) -> Tensor:
        return self.manner.decode(self.model, raw)

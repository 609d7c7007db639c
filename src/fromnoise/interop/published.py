"""A model that others trained, as one of ours: its recipe, its denoiser, and what its prompts become."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fromnoise.config import spec
from fromnoise.denoise import Denoise, Denoiser, Guidance
from fromnoise.folders import Pipeline
from fromnoise.generate import Around
from fromnoise.interop.lora import Place, places_of
from fromnoise.interop.lora.model import Adaptable
from fromnoise.interop.schedules import Schedule
from fromnoise.latents import Latents, Pixels
from fromnoise.nets import Trunk, UNet
from fromnoise.recipe import Recipe
from fromnoise.sample import SOLVERS
from fromnoise.settings import Settings
from fromnoise.system import System
from fromnoise.text import Labels, Towers
from fromnoise.types import Condition, UserError


@spec
class Elsewhere:
    """Pictures that are not here: the model was trained on them by others."""

    kind: Literal["elsewhere"] = "elsewhere"
    height: Annotated[int, Field(ge=1)] = 512
    """Usual height of a picture."""
    width: Annotated[int, Field(ge=1)] = 512
    """Usual width of a picture."""
    channels: int = 3
    """Channels of a picture."""
    frames: int = 1
    """Frames of a picture."""

    def open(self, split: str = "train"):
        """There is nothing to open: UserError."""
        raise UserError("The pictures that this model was trained on are not here: tune, train and evaluate on data of "
                        "your own.")


@spec
class Untold:
    """No text: the model is told nothing but the noise level."""

    kind: Literal["untold"] = "untold"


@spec
class Published(Recipe):
    """What a folder in the layout of diffusers holds, in our terms."""

    source: str
    """The folder or hub id."""
    data: Elsewhere = Elsewhere()  # type: ignore[assignment]
    text: Annotated[Towers | Labels | Untold, Field(discriminator="kind")] = Untold()  # type: ignore[assignment]
    latents: Latents = Pixels()  # type: ignore[assignment]
    net: Annotated[Trunk | UNet, Field(discriminator="kind")]  # type: ignore[assignment]


class NoText(nn.Module):
    """Prompts of a model that is told nothing: they may only be empty."""

    def encode(self, texts: list[str], negative: bool = False) -> Condition:
        if any(texts):
            raise UserError("This model is told nothing but the noise level: leave the prompt empty.")
        return Condition()

    def cut(self, text: str) -> None:
        return None


class PublishedSystem(System):
    """The modules of a published model."""

    def __init__(self, recipe: Published, text: nn.Module, latents: nn.Module, denoiser: Denoiser):
        nn.Module.__init__(self)
        self.recipe, self.text, self.latents = recipe, text, latents  # type: ignore[assignment]
        self.denoiser, self.variance = denoiser, None


class PublishedDenoiser(Denoiser):
    """A denoiser whose network is told the timesteps of its own schedule, in its own precision."""

    def __init__(self, net: nn.Module, schedule: Schedule):
        super().__init__(net, schedule.path, schedule.prediction)
        self.schedule = schedule

    def output(self, x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        scale = self.path.input_scale(self.clock(x, t))
        dtype = next(self.net.parameters()).dtype
        timestep = self.clock(x, (self.schedule.told(t.double()) / 1000).float())
        seen = x if scale is None else scale[..., None, None, None] * x
        numbers = condition.numbers  # which half precision would round
        condition = condition.map(lambda part: part.to(dtype) if part.is_floating_point() else part)
        said = self.net(seen.to(dtype), timestep, replace(condition, numbers=numbers), **told)
        return said[:, :, : x.shape[2]].to(x.dtype)  # what is beyond is a learned variance

    def forward(self, x: Tensor, t: Tensor, condition: Condition, **told) -> Tensor:
        x0 = super().forward(x, t, condition, **told)
        return x0 if self.schedule.clip is None else x0.clamp(-self.schedule.clip, self.schedule.clip)


class PublishedModel(Adaptable):
    """A published model, which samples on its own schedule.

    numbers: what its network is told beside the text ("size_crop" of SDXL, "size_aspect" of PixArt, or a guidance
    scale, "guidance", which is then what ``guidance`` means).
    """

    def __init__(self, system: PublishedSystem, schedule: Schedule, pipeline: Pipeline, numbers: str = ""):
        super().__init__(system, str(pipeline.folder))
        self.schedule, self.pipeline, self.numbers = schedule, pipeline, numbers

    def places(self) -> dict[str, Place]:
        part = self.pipeline.part("unet" if "unet" in self.pipeline.components else "transformer")
        return places_of(self.system.denoiser.net, part.kind, part.config, self.system.text)

    def encode(self, prompts: list[str], settings: Settings | None = None, negative: bool = False) -> Condition:
        condition = self._read(prompts, settings, negative=negative)
        if not self.numbers or settings is None:
            return condition
        return replace(condition, numbers=self.told(settings).to(self.system.device).expand(len(prompts), -1))

    def told(self, settings: Settings) -> Tensor:
        """The numbers of one picture, ``[1, K]``."""
        height, width = settings.size
        if self.numbers == "guidance":
            return torch.tensor([[settings.guidance.scale]])
        if self.numbers == "size_crop":
            return torch.tensor([[height, width, 0.0, 0.0, height, width]])
        return torch.tensor([[height, width, height / width]])

    def _guided(self, settings: Settings, image: Tensor | None, around: Around) -> tuple[Condition, Denoise]:
        if self.numbers != "guidance":
            return super()._guided(settings, image, around)
        if settings.negative or settings.guidance != Guidance(scale=settings.guidance.scale):
            raise UserError("This model was distilled to be told its guidance scale: it takes no negative prompt and "
                            "no other kind of guidance.")
        return self.encode(settings.prompts, settings), around(self.system.denoiser)

    def times(self, settings: Settings) -> Tensor:
        """The grid of its schedule."""
        h, w = self.system.latent_size(*settings.size)
        p = self.recipe.net.multiple
        return self.schedule.times(settings.steps, (h // p) * (w // p))

    def _start(self, noise: Tensor, settings: Settings) -> Tensor:
        return noise * self.schedule.noise_scale(self.times(settings))

    def _decode(self, latents: Tensor) -> Tensor:
        weight = next(self.system.latents.parameters(), latents)
        return super()._decode(latents.to(weight.dtype))

    def _clock(self, settings: Settings) -> dict[str, Any]:
        clock = super()._clock(settings)
        return clock if settings.solver not in SOLVERS or "grid" not in clock else {
            "solver": clock["solver"], "grid": self.times(settings)}

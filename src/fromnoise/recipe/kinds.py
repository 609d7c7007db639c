"""The kinds of recipes: of a diffusion model, and of an autoencoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from fromnoise.config import Named, spec
from fromnoise.data.clips import Clips
from fromnoise.data.digits import Digits
from fromnoise.data.episodes import Episodes
from fromnoise.data.glyphs import Glyphs
from fromnoise.data.moving import Moving
from fromnoise.data.pictures import Folder
from fromnoise.data.shapes import Shapes
from fromnoise.films import PLAYED
from fromnoise.latents import KL, Foreign, Latents, Pixels, Reconstruction, Representation
from fromnoise.nets import Trunk, UNet, house
from fromnoise.process import Flow, Objective, Path, Upsampling
from fromnoise.recipe import idle
from fromnoise.recipe.sampling import Evaluation, Looking, Sampling
from fromnoise.recipe.saved import Saved
from fromnoise.recipe.training import Encoding, Schedule, Training
from fromnoise.terms import Hub
from fromnoise.text import Frozen, Trained
from fromnoise.types import Acts


def _folder_name(name: str) -> str:
    """A name that can be a folder in runs/ and leads nowhere else."""
    if name.strip() in ("", ".", "..") or len(name.encode()) > 200 or any(c in "/\\" or ord(c) < 32 for c in name):
        raise PydanticCustomError("name", "should be a plain name, since it names the run's folder in runs/: not "
                                          "empty, without / or \\, and not . or ..")
    return name


def _learns(latents: Any) -> Any:
    """An autoencoder with something to learn."""
    if isinstance(latents, Pixels | Foreign):
        kind = "pixels have nothing to train" if isinstance(latents, Pixels) else "foreign ones are not trained here"
        raise PydanticCustomError("latents", "should be an autoencoder, such as kl: {kind}", {"kind": kind})
    return latents


Name = Annotated[str, AfterValidator(_folder_name)]
Data = Annotated[Digits | Glyphs | Shapes | Moving | Folder | Clips | Episodes, Field(discriminator="kind")]
Learned = Annotated[Latents, AfterValidator(_learns)]
Text = Annotated[Trained | Frozen, Field(discriminator="kind")]
Net = Annotated[UNet | Trunk, Field(discriminator="kind"), Named("transformer", house)]


@spec
class Recipe(Saved):
    """A model, its data, its training and its use."""

    kind: Literal["diffusion"] = "diffusion"
    name: Name
    """What the run is called."""
    data: Data
    text: Text = Trained()
    latents: Latents = Pixels()
    encoding: Encoding = Encoding()
    path: Path = Flow()
    objective: Objective = Objective()
    upsample: Upsampling = Upsampling()
    net: Net = house()
    train: Training = Training()
    sample: Sampling = Sampling()
    evaluate: Evaluation = Evaluation()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes initial weights, the order of the data and all noise."""

    @property
    def latent(self) -> bool:
        return not isinstance(self.latents, Pixels)

    @property
    def fps(self) -> float:
        """Frames a second at which its films are made unless the caller says otherwise; 0 where data are pictures."""
        return (getattr(self.data, "fps", 0.0) or PLAYED) if self.data.frames > 1 else 0.0

    @property
    def acts(self) -> Acts | None:
        """What can be done in the world that its data were recorded in; None where nobody acts."""
        return self.data.actions.acts if isinstance(self.data, Episodes) else None

    @property
    def joint(self) -> bool:
        """Whether the autoencoder goes on learning with the network."""
        return self.train.end_to_end.lr > 0

    def resolved(self) -> Self:
        """The recipe with what its data and text encoder name from outside, and room in its network for the small
        picture."""
        told = self.upsample.channels(self.data.channels)
        net = replace(self.net, image_channels=self.net.image_channels or told)
        return replace(super().resolved(), text=self.text.resolved(), net=net)

    def idle(self) -> dict[str, str]:
        """The fields, dotted, that the other choices leave without effect, and why."""
        return idle.of_diffusion(self)


@spec
class Coder(Saved):
    """An autoencoder, its data and its training: the latents that diffusion models may then be made in."""

    kind: Literal["autoencoder"] = "autoencoder"
    name: Name
    """What the run is called."""
    data: Data
    latents: Learned = KL()
    loss: Reconstruction = Reconstruction()
    train: Schedule = Schedule()
    evaluate: Looking = Looking()
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes initial weights, the order of the data and all noise."""

    def idle(self) -> dict[str, str]:
        """The fields, dotted, that the other choices leave without effect, and why."""
        return idle.of_autoencoder(self)


AnyRecipe = Recipe | Coder
KINDS: dict[str, type[AnyRecipe]] = {"diffusion": Recipe, "autoencoder": Coder}


def named_outside(recipe: AnyRecipe) -> list[str]:
    """Models of others, folders or hub ids, that training begins by reading."""
    found = [recipe.latents.encoder] if isinstance(recipe.latents, Representation) else []
    if isinstance(recipe, Recipe) and recipe.train.repa.weight and isinstance(recipe.train.repa.teacher, Hub):
        found.append(recipe.train.repa.teacher.model)
    return found

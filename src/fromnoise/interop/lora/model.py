"""A model to which LoRAs may be added, and which says so in its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromnoise.generate import Model
from fromnoise.interop.configs import counterpart
from fromnoise.interop.lora.file import read_lora
from fromnoise.interop.lora.merge import Merged, apply_lora
from fromnoise.interop.lora.places import NETWORK, Place, own_place, place_of
from fromnoise.settings import Adapter, checked
from fromnoise.types import UserError


class Adaptable(Model):
    """A model with LoRAs in its weights: none at first."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._added: list[Merged] = []

    def add_lora(self, path: str | Path, scale: float = 1.0) -> Merged:
        """Add a LoRA of peft's, diffusers' or kohya's layout, ``scale`` times, to what ``places`` names.

        Several may be there at once.  What is returned takes its own away again (``remove``) or changes its scale
        (``rescale``).  UserError, with the weights as they were, for a file that does not fit.
        """
        scale = checked("scale", scale)
        self._added.append(apply_lora(self.places(), read_lora(path), scale))
        return self._added[-1]

    @property
    def loras(self) -> list[Adapter]:
        """The LoRAs that its weights hold now."""
        return [Adapter(one.where, one.scale, one.sha256) for one in self._added if one.scale]

    def places(self) -> dict[str, Place]:
        """What a LoRA may adapt, under the names of diffusers, or under our own where diffusers has no such network.

        Of a run it is the network alone: what its text encoder answers may be kept, and would not be of the LoRA.
        """
        net = self.system.denoiser.net
        try:
            return {NETWORK: place_of(net, *counterpart(self.recipe, self.system))}
        except UserError:
            return {NETWORK: own_place(net)}

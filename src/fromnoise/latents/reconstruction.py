"""What an autoencoder is trained for: media that come back as they went in."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec

Weight = Annotated[float, Field(ge=0)]
PIXELS = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


@spec
class Reconstruction:
    """The sum of the parts of the loss, each by its weight; 0 switches a part off."""

    pixel: Literal["l1", "l2", "huber"] = "l1"
    """How pixels are compared: absolute error, squared error, or Huber's, which is squared below huber_at."""
    pixel_weight: Weight = 1.0
    """Weight of the mean error of a pixel."""
    huber_at: Annotated[float, Field(gt=0)] = 0.1
    """Error, of the 2 between black and white, at which Huber's loss turns from squared to absolute."""

    def idle(self) -> dict[str, str]:
        """The fields that the other choices leave without effect, and why."""
        idle = {"huber_at": self.pixel != "huber" and f"pixels are compared by {self.pixel}"}
        return {field: why for field, why in idle.items() if why}

    def of_pixels(self, made: Tensor, real: Tensor) -> Tensor:
        """The mean error of a pixel, without its weight."""
        scale = {"beta": self.huber_at} if self.pixel == "huber" else {}
        return PIXELS[self.pixel](made.float(), real, **scale)

"""What an autoencoder is trained for: media that come back as they went in, and look as if they had never gone.

    loss = pixel_weight |x' - x| + perceptual_weight d(x', x) + adversarial.weight lambda G(x') + its own penalties

d is a distance between the features of a network, G what a discriminator says (Esser et al. 2021, "VQGAN").  A weight
of 0 switches its part off.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fromnoise.config import Short, spec
from fromnoise.perception.distance import Eye
from fromnoise.perception.patchgan import Game

Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PIXELS = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


@spec
class Adversary:
    """A discriminator of patches that learns to tell what comes back from what went in."""

    weight: Weight = 0.0
    """How much the discriminator counts; 0 for none."""
    adaptive: bool = True
    """Multiply by the ratio of the gradients of the other parts and of this one at the decoder's last layer (VQGAN)."""
    start: Share = 0.5
    """Share of training before the discriminator is heard."""
    ahead: Share = 0.05
    """Share of training during which it already learns, before it is heard."""
    game: Game = "hinge"
    """What is minimised: hinge, or non_saturating cross-entropies."""
    r1: Weight = 0.0
    """Weight of the squared slope of its verdict at real pictures."""
    width: Annotated[int, Field(gt=0, multiple_of=4)] = 32
    """Features of its first layer, which double with each further one."""
    depth: Count = 2
    """Halvings of the picture: 2 judges patches of 34 pixels, 3 those of 70."""
    frames: Count = 1
    """How many frames of a film, one after another, it sees at once: with 1 how they look, with more how they move."""
    lr: Annotated[float, Field(gt=0)] = 5e-4
    """Learning rate of its AdamW, which rises and falls with that of the autoencoder."""

    def heard(self, step: int, steps: int) -> bool:
        """Whether it counts at step 0, 1, ... of ``steps``."""
        return self.weight > 0 and step >= self.start * steps

    def learns(self, step: int, steps: int) -> bool:
        """Whether it is trained at step 0, 1, ... of ``steps``."""
        return self.weight > 0 and step >= (self.start - self.ahead) * steps


@spec
class Reconstruction:
    """The sum of the parts of the loss, each by its weight; 0 switches a part off."""

    pixel: Literal["l1", "l2", "huber"] = "l1"
    """How pixels are compared: absolute error, squared error, or Huber's, which is squared below huber_at."""
    pixel_weight: Weight = 1.0
    """Weight of the mean error of a pixel."""
    huber_at: Annotated[float, Field(gt=0)] = 0.1
    """Error, of the 2 between black and white, at which Huber's loss turns from squared to absolute."""
    perceptual_weight: Weight = 0.0
    """Weight of the distance between how pictures look to a network."""
    perceptual: Eye = "auto"
    """That network: lpips (weights must be on disk), one fitted to the captions, or random; auto: the best of them."""
    adversarial: Annotated[Adversary, Short("weight")] = Adversary()
    """The discriminator; a number alone is its weight, of which 0 is none."""

    def idle(self) -> dict[str, str]:
        """The fields that the other choices leave without effect, and why."""
        adversary = self.adversarial
        idle = {"huber_at": self.pixel != "huber" and f"pixels are compared by {self.pixel}",
                "perceptual": not self.perceptual_weight and "perceptual_weight is 0"}
        if not adversary.weight:
            rest = ("adaptive", "start", "ahead", "game", "r1", "width", "depth", "frames", "lr")
            idle |= {f"adversarial.{field}": "there is no discriminator" for field in rest}
        return {field: why for field, why in idle.items() if isinstance(why, str)}

    def of_pixels(self, made: Tensor, real: Tensor) -> Tensor:
        """The mean error of a pixel, without its weight."""
        scale = {"beta": self.huber_at} if self.pixel == "huber" else {}
        return PIXELS[self.pixel](made.float(), real, **scale)

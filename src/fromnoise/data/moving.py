"""The universe in motion as a data set: captioned clips without end, drawn as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from fromnoise.config import spec
from fromnoise.data.shapes import ShapeSource
from fromnoise.data.universe.actions import World, sample_motion
from fromnoise.data.universe.stories import stories, told

SHORTEST = 1.2  # seconds from the first frame to the last, in which everything can be told


@spec
class Moving:
    """Coloured shapes that move, fall and bounce, in words and clips, with ground truth."""

    kind: Literal["moving"] = "moving"
    objects: Annotated[int, Field(ge=1, le=2)] = 1
    """Objects in a clip, 1 or 2; later ones pass in front of earlier ones."""
    fewest: Annotated[int, Field(ge=0, le=2)] = 0
    """Where above 0, clips in turn hold fewest, fewest + 1, ... up to ``objects`` objects."""
    frames: Annotated[int, Field(ge=4, le=1024)] = 16
    """Frames of a clip."""
    fps: Annotated[float, Field(gt=0, le=240)] = 8.0
    """Frames a second."""
    height: Annotated[int, Field(ge=16, le=1024)] = 32
    """Height in pixels."""
    width: Annotated[int, Field(ge=16, le=1024)] = 32
    """Width in pixels."""
    gravity: Literal["off", "on", "mixed"] = "mixed"
    """Whether things fall: in no clip, in every one, or in half of them."""
    g: Annotated[float, Field(ge=0.5, le=4)] = 1.0
    """Gravity in sides of the frame (the shorter one) per second squared."""
    restitution: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    """How much of its speed a thing keeps when it bounces off a wall."""

    channels = 3
    endless = True  # there is no list of its captions

    def __post_init__(self):
        if self.fewest > self.objects:
            raise PydanticCustomError("fewest", "should not have fewest above objects")
        if (self.frames - 1) / self.fps < SHORTEST:
            raise PydanticCustomError("frames", "should last {least} s at least from the first frame to the last, or "
                                                "nobody can tell what happens: raise frames or lower fps",
                                      {"least": SHORTEST})

    @property
    def numbers(self) -> range:
        """The numbers of objects, which successive clips take in turn."""
        return range(self.fewest or self.objects, self.objects + 1)

    @property
    def world(self) -> World:
        """The laws and the frame of the clips."""
        unit, heavy = min(self.height, self.width), {"off": 0.0, "on": 1.0, "mixed": 0.5}[self.gravity]
        return World(self.g, heavy, self.restitution, self.width / unit, self.height / unit,
                     np.arange(self.frames) / self.fps)

    def open(self, split: Literal["train", "test"]) -> MovingSource:
        """Combinations of things and what they do, to train on, or those that are held out (one in ten)."""
        return MovingSource(self, split)


class MovingSource(ShapeSource):
    """Example i is a function of (split, i); the keys are not needed."""

    @property
    def captions(self) -> list[str]:
        return told()

    def sample(self, keys: np.ndarray, objects: int) -> Any:
        return sample_motion(keys, objects, self.held_out, self.spec.world)

    def said(self, scenes: Any) -> Sequence[Any]:
        return stories(scenes)

    def drawn(self, scenes: Any) -> Tensor:
        return scenes.render(self.spec.height, self.spec.width)

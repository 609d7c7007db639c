"""Films for tests: one scene of the universe whose objects slide and bounce off the walls."""

from dataclasses import replace

import numpy as np
import torch

from fromnoise.config import spec
from fromnoise.data.shapes import Shapes, ShapeSource
from fromnoise.data.universe import render
from fromnoise.random import fold, uniforms

SPEED = 0.06  # most that an object moves in a frame, along each axis


@spec
class Sliding(Shapes):
    """Shapes that slide at a constant speed."""

    frames: int = 9
    fps: float = 8.0

    def open(self, split):
        return SlidingSource(self, split)


class SlidingSource(ShapeSource):
    """Example i is a function of (split, i)."""

    def _drawn(self, scenes):
        rows = torch.from_numpy(np.concatenate([rows for rows, _ in scenes]))
        films = torch.cat([self.film(some) for _, some in scenes])
        return films[rows.argsort()]

    def film(self, scenes):
        """``[B, frames, 3, height, width]``."""
        objects = scenes.position.shape[1]
        keys = (scenes.position[:, 0, 0] * 2**40).astype(np.int64)  # each scene has its own place
        step = (uniforms(fold(keys, 5), 2 * objects).reshape(-1, objects, 2) * 2 - 1) * SPEED
        reach = 1.25 * scenes.radius[..., None]
        frames = []
        for t in range(self.spec.frames):
            u = (scenes.position - reach + t * step) / (1 - 2 * reach)  # 0 and 1 are walls, off which it bounces
            inside = 1 - np.abs(u % 2 - 1)
            frames.append(render(replace(scenes, position=reach + inside * (1 - 2 * reach)),
                                 self.spec.height, self.spec.width))
        return torch.cat(frames, dim=1)

"""A fixed random network that looks at films: movement and looks alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.perception.features import FEATURES, RandomFeatures


class RandomClipFeatures(nn.Module):
    """How frames look on average, and how they change, to convolutions with fixed random weights.

    No training and no download, as ``RandomFeatures`` for pictures, which look at the frames.  A second network looks
    at the differences of frames, of which it sees two at a time: what stands still says nothing there, and a kernel
    answers to some directions and speeds more than to others.  (A network of the frames themselves hardly tells a film
    from its shuffled frames: what they show outweighs how they move.)
    """

    def __init__(self, channels: int, seed: int = 0):
        super().__init__()
        self.frames = RandomFeatures(channels, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convs = nn.ModuleList(nn.Conv3d(i, o, (2, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)) for i, o in (
                (channels, 24), (24, FEATURES), (FEATURES, FEATURES)))
            for conv in self.convs:
                nn.init.orthogonal_(conv.weight, gain=2.0)  # type: ignore[arg-type]

    @torch.no_grad()
    def look(self, media: Tensor, batch: int = 32) -> Tensor:
        """Features ``[n, 3 FEATURES]`` of films ``[n, T, C, H, W]`` of two frames or more."""
        frames = self.frames.look(media.flatten(0, 1)).unflatten(0, media.shape[:2]).mean(1)
        return torch.cat([frames, torch.cat([self.changes(part) for part in media.split(batch)])], dim=1)

    def changes(self, media: Tensor) -> Tensor:
        """Means and spreads, over places and frames, of what is seen in the differences: ``[n, 2 FEATURES]``."""
        x = media.diff(dim=1).transpose(1, 2)
        for conv in self.convs:
            x = F.pad(x, (0, 0, 0, 0, 0, 1), mode="replicate") if x.shape[2] == 1 else x  # of a film that is short
            x = F.leaky_relu(conv(x), 0.2)
        return torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], dim=1)

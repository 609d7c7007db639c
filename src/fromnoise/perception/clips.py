"""A fixed random network that looks at films: movement and looks alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.perception.features import FEATURES


class RandomClipFeatures(nn.Module):
    """Convolutions over three frames and three by three places, with fixed random weights.

    No training and no download, as ``RandomFeatures`` for pictures.  A kernel over frames answers to some directions
    and speeds more than to others, so that movement is in the features and not what single frames show alone.
    """

    def __init__(self, channels: int, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convs = nn.ModuleList(nn.Conv3d(i, o, 3, stride=(1, 2, 2), padding=(0, 1, 1)) for i, o in (
                (channels, 24), (24, FEATURES), (FEATURES, FEATURES)))
            for conv in self.convs:
                nn.init.orthogonal_(conv.weight, gain=2.0)  # type: ignore[arg-type]

    @torch.no_grad()
    def look(self, media: Tensor, batch: int = 32) -> Tensor:
        """Features ``[n, 2 FEATURES]`` of films ``[n, T, C, H, W]``: means and spreads over places and frames.

        Films with fewer frames than a kernel go on with their last one.
        """
        found = []
        for part in media.split(batch):
            x = part.transpose(1, 2)
            for conv in self.convs:
                x = F.pad(x, (0, 0, 0, 0, 0, max(0, 3 - x.shape[2])), mode="replicate")
                x = F.leaky_relu(conv(x), 0.2)
            found.append(torch.cat([x.mean((2, 3, 4)), x.std((2, 3, 4))], 1))
        return torch.cat(found)

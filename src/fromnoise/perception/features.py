"""Networks that look at pictures: a classifier fitted on real ones, or a fixed random one without classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 32


class Classifier(nn.Module):
    """A small convolutional classifier with one head for each kind of class."""

    def __init__(self, channels: int, height: int, width: int, classes: Sequence[int]):
        super().__init__()
        large = min(height, width) > 16  # seen at half the size from the first layer on: a tenth of the work
        first = nn.Conv2d(channels, 16, 5, 2, 2) if large else nn.Conv2d(channels, 24, 3, padding=1)
        layers: list[nn.Module] = [first, nn.ReLU()]
        current = first.out_channels
        height, width = (-(-height // 2), -(-width // 2)) if large else (height, width)
        while min(height, width) > 4:
            wide = 2 * current if current < 64 else current
            layers += [nn.Conv2d(current, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            current, height, width = wide, height // 2, width // 2
        last = nn.Linear(current * height * width, FEATURES)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.25), last, nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(FEATURES, n) for n in classes)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.body(images)
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def look(self, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
        """Features ``[n, FEATURES]`` and predicted classes ``[n, heads]`` of images ``[n, C, H, W]``."""
        features = torch.cat([self.body(part) for part in images.split(batch)])
        return features, torch.stack([head(features).argmax(1) for head in self.heads], 1)


def fit_classifier(images: Tensor, labels: Tensor, classes: Sequence[int], steps: int = 400, batch: int = 64,
                   seed: int = 0) -> Classifier:
    """A classifier of real ``images`` ``[n, C, H, W]`` with ``labels`` ``[n, heads]``, the same for the same seed.

    Images are shifted by up to a pixel and get a little noise, so that it judges shape and not pixels.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(*images.shape[1:], classes)  # type: ignore[arg-type]
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        H, W = images.shape[-2:]
        for _ in range(steps):
            chosen = torch.randint(len(images), (batch,), generator=random)
            dy, dx = torch.randint(3, (2,), generator=random).tolist()
            x = padded[chosen, :, dy : dy + H, dx : dx + W]
            x = x + 0.1 * torch.randn(x.shape, generator=random)
            loss = torch.stack([F.cross_entropy(out, labels[chosen, i]) for i, out in enumerate(net(x))]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


class Convolutions(nn.Module):
    """Convolutions one after another, whose features are looked at layer by layer."""

    convs: nn.ModuleList

    def maps(self, images: Tensor) -> list[Tensor]:
        """The features ``[n, D, h, w]`` of each layer, of pictures ``[n, C, H, W]``."""
        found = []
        for conv in self.convs:
            images = F.leaky_relu(conv(images), 0.2)
            found.append(images)
        return found


class RandomFeatures(Convolutions):
    """A fixed random convolutional network: no training, no download, sensitive to texture and layout alike."""

    def __init__(self, channels: int, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convs = nn.ModuleList(
                nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in ((channels, 16), (16, 24), (24, FEATURES)))
            for conv in self.convs:
                nn.init.orthogonal_(conv.weight, gain=2.0)  # type: ignore[arg-type]

    @torch.no_grad()
    def look(self, images: Tensor, batch: int = 256) -> Tensor:
        """Features ``[n, FEATURES]`` of images ``[n, C, H, W]``."""
        return torch.cat([self.maps(part)[-1].mean((2, 3)) for part in images.split(batch)])

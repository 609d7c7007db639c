"""VGG-16 and the weights of LPIPS, from the files that libraries leave on disk.

The layers' weights come with the packages lpips and torchmetrics (``lpips_models/vgg.pth``), and the network's are
what torchvision downloads into torch's folder.  Both packages, and torch-fidelity, need torchvision to build the
network; here it is thirteen convolutions, so that the files alone are enough.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.types import UserError

WORDS = "LPIPS (VGG-16)"
BACKBONE = "vgg16-397923af.pth"
LAYERS = {"torchmetrics": "functional/image/lpips_models/vgg.pth", "lpips": "weights/v0.1/vgg.pth"}
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (width, convolutions); blocks are pooled apart
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1], as LPIPS was fitted


class VGG(nn.Module):
    """The convolutions of VGG-16 (Simonyan and Zisserman 2015), in torchvision's names."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for i, (width, depth) in enumerate(BLOCKS):
            layers += [nn.MaxPool2d(2)] if i else []
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What each block ends in, of pictures ``[n, 1 or 3, H, W]`` in [-1, 1], of 16 pixels a side or more."""
        shift, scale = (images.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
        images = (images.expand(-1, 3, -1, -1) - shift) / scale
        found = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                found.append(images)
            images = F.relu(images) if isinstance(layer, nn.ReLU) else layer(images)
        return [*found, images]


def files() -> tuple[Path, Path] | None:
    """(the network's weights, the layers') where both are on disk."""
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / BACKBONE
    for package, inside in LAYERS.items():
        found = importlib.util.find_spec(package)
        if found is not None and found.origin and (path := Path(found.origin).parent / inside).is_file():
            return (backbone, path) if backbone.is_file() else None
    return None


def load() -> tuple[VGG, list[Tensor]]:
    """The network, and the weights ``[D]`` of each of its layers.  UserError where they are not on disk or damaged."""
    found = files()
    if found is None:
        raise UserError(f"The weights of LPIPS are not on disk: pip install torchmetrics, and put {BACKBONE} into "
                        f"{Path(torch.hub.get_dir()) / 'checkpoints'}; or choose captions or random instead of lpips.")
    try:
        weights, layers = (torch.load(path, map_location="cpu", weights_only=True) for path in found)
        net = VGG()
        net.load_state_dict({key: value for key, value in weights.items() if key.startswith("features.")})
        return net, [layers[f"lin{i}.model.1.weight"].flatten() for i in range(len(BLOCKS))]
    except (pickle.UnpicklingError, OSError, RuntimeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"The weights of LPIPS ({found[0]}, {found[1]}) cannot be read: {error!s:.200}.") from None

"""Networks that others trained, as features of pictures: Inception, DINOv2, CLIP.

Each loader gives an ``Extractor``, images in [-1, 1] to features ``[n, F]``, for ``panel(features=...)``; so does any
function of that shape, such as ``RandomFeatures(channels).look`` or a fitted classifier.  The libraries are extras, and
weights are downloaded by them, kept by them, and never unpickled.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.real import cover
from fromnoise.folders import whereabouts
from fromnoise.types import UserError


@dataclass(frozen=True, eq=False)
class Extractor:
    """Pictures as a network sees them.

    net: images ``[n, 3, H, W]`` in [-1, 1], prepared by ``prepare``, to features ``[n, F]``;  batch: pictures at a
    time.  The result is float32, in main memory.
    """

    name: str
    net: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    batch: int = 64

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features ``[n, F]`` of images ``[n, C, H, W]``, or media ``[n, 1, C, H, W]``, in [-1, 1]; C is 1 or 3."""
        if images.ndim == 5 and images.shape[1] == 1:
            images = images[:, 0]
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(f"{self.name} looks at pictures [n, 1 or 3, H, W]; these are {list(images.shape)}.")
        colour = images.expand(-1, 3, -1, -1)
        return torch.cat([self.net(self.prepare(part)).float().cpu() for part in colour.split(self.batch)])


def dinov2(model: str = "facebook/dinov2-base", device: str = "cpu") -> Extractor:
    """The class token of DINOv2 (Oquab et al. 2023), which agrees with people's eyes better than Inception does
    (Stein et al. 2023).  model: a name on the hub, or a folder."""
    with extra("DINOv2", "transformers", "features"):
        from transformers import Dinov2Model
    with weights("DINOv2", model):
        net = Dinov2Model.from_pretrained(model, use_safetensors=True, **whereabouts(model))
        net = net.eval().to(device)  # type: ignore[arg-type]
        return Extractor(f"DINOv2 ({model})", lambda x: net(x.to(device)).pooler_output, preparation(model))


def clip(model: str = "openai/clip-vit-large-patch14", device: str = "cpu") -> Extractor:
    """The image embedding of CLIP (Radford et al. 2021), before it is brought to unit length, as in CMMD
    (Jayasumana et al. 2024).  model: a name on the hub, or a folder."""
    with extra("CLIP", "transformers", "features"):
        from transformers import CLIPVisionModelWithProjection
    with weights("CLIP", model):
        net = CLIPVisionModelWithProjection.from_pretrained(model, use_safetensors=True, **whereabouts(model))
        net = net.eval().to(device)  # type: ignore[arg-type]
        return Extractor(f"CLIP ({model})", lambda x: net(x.to(device)).image_embeds, preparation(model))


def inception(model: str | Path | None = None, device: str = "cpu") -> Extractor:
    """The 2048 features of the Inception network that FID is defined with (Heusel et al. 2017), by torch-fidelity.

    model: a file of its weights; by default torch-fidelity downloads them.  Pictures are rounded to 8 bits, and
    resized inside the network as the original does.
    """
    with extra("Inception", "torch_fidelity", "inception"):
        from torch_fidelity import FeatureExtractorInceptionV3  # type: ignore[import-not-found]
    with weights("Inception", str(model or "from torch-fidelity")), tensors_only():
        file = None if model is None else str(model)
        net = FeatureExtractorInceptionV3("fromnoise", ["2048"], feature_extractor_weights_path=file).to(device)
    return Extractor("Inception", lambda x: net(x.to(device))[0], to_bytes)


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit values."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def preparation(model: str) -> Callable[[Tensor], Tensor]:
    """What a checkpoint of transformers wants done to images in [-1, 1]: cut, resize and normalise.

    By its preprocessor_config.json; done here, since transformers' own fast processors need torchvision.
    """
    from transformers.utils.hub import cached_file

    path = cached_file(model, "preprocessor_config.json", **whereabouts(model))  # type: ignore[arg-type]
    config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("image_mean", "image_std"))
    size = _size(config.get("crop_size") or config["size"])

    def prepare(images: Tensor) -> Tensor:
        images = (cover(images, size, "bicubic").clamp(-1, 1) + 1) / 2
        return (images - mean.to(images)) / std.to(images)

    return prepare


def _size(size: Any) -> tuple[int, int]:
    """(height, width) from the ways a preprocessor_config.json writes it."""
    if isinstance(size, int):
        return size, size
    return (size["height"], size["width"]) if "height" in size else (size["shortest_edge"],) * 2


@contextmanager
def extra(what: str, library: str, name: str) -> Iterator[None]:
    """A library within that cannot be imported, as the sentence that says what to install."""
    try:
        yield
    except (ImportError, RuntimeError) as error:  # torchvision made for another torch raises the latter
        raise UserError(f"{what} features need {library} ({error}): pip install 'fromnoise[{name}]'.") from None


@contextmanager
def weights(what: str, model: str) -> Iterator[None]:
    """What goes wrong with weights within, as a sentence."""
    try:
        yield
    except pickle.UnpicklingError:
        raise UserError(f"The weights of {what} ({model}) hold more than tensors, so they are not loaded: nothing is "
                        "unpickled here.") from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"The weights of {what} ({model}) cannot be had: {reason}. Go online once, or name a folder or "
                        "file that holds them.") from None


@contextmanager
def tensors_only() -> Iterator[None]:
    """Within, ``torch.load`` reads tensors and runs no code, whatever a library asks for."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})

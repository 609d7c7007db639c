"""Every published network by its name: settings of the trunk and of the U-Net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fromnoise.config import nearest
from fromnoise.nets.count import Count, count
from fromnoise.nets.trunk import Trunk
from fromnoise.nets.trunk.presets import PRESETS as TRUNKS
from fromnoise.nets.unet import UNet
from fromnoise.nets.unet_presets import PRESETS as UNETS
from fromnoise.types import UserError

PUBLISHED: dict[str, Callable[..., Trunk | UNet]] = {**TRUNKS, **UNETS}


@dataclass(frozen=True)
class Media:
    """What a network was published for.

    channels and size (height, width) of x, which are latents but for pixels;  text_width and words of the text;
    pooled_width of the pooled text or class;  frames of a film;  choices of what is done in a world.
    """

    channels: int
    size: tuple[int, int]
    text_width: int | None = None
    words: int = 0
    pooled_width: int | None = None
    frames: int = 1
    choices: int = 0


# Widths and lengths of the texts are those of the systems' encoders: CLIP 77 words (768 wide, OpenCLIP-H 1024, both of
# SDXL 2048), T5-XXL 4096, Gemma 2 2B and T5Gemma 2304, three layers of Mistral Small (15360) or of Qwen3 4B (7680),
# Qwen2.5-VL 7B 3584, Qwen3-VL 8B 4096, Qwen3 4B 2560.  Pictures are of 1024 pixels unless they say otherwise.
MEDIA: dict[str, Media] = {
    "dit": Media(4, (32, 32), pooled_width=1152),  # ImageNet at 256 pixels
    "sit": Media(4, (32, 32), pooled_width=1152),
    "pixart": Media(4, (128, 128), 4096, 120),
    "pixart_sigma": Media(4, (128, 128), 4096, 300),
    "sana": Media(32, (32, 32), 2304, 300),
    "prx": Media(16, (64, 64), 2304, 256),  # 512 pixels
    "uvit": Media(4, (32, 32), 768, 77),  # 256 pixels
    "jit": Media(3, (256, 256), pooled_width=768),
    "sd3": Media(16, (128, 128), 4096, 333, 2048),
    "flux1": Media(16, (128, 128), 4096, 512, 768),
    "flux2": Media(32, (128, 128), 15360, 512),
    "flux2_klein": Media(32, (128, 128), 7680, 512),
    "qwen_image": Media(16, (128, 128), 3584, 512),
    "qwen_image21": Media(64, (64, 64), 4096, 512),
    "lumina2": Media(16, (128, 128), 2304, 256),
    "z_image": Media(16, (128, 128), 2560, 512),
    "latte": Media(4, (32, 32), pooled_width=1152, frames=16),
    "house": Media(3, (32, 32), 96, 32),  # never published: the shapes of our own recipe
    "ddpm": Media(3, (32, 32)),  # CIFAR-10
    "adm": Media(3, (256, 256), pooled_width=1000),
    "sd1": Media(4, (64, 64), 768, 77),  # 512 pixels
    "sd2": Media(4, (96, 96), 1024, 77),  # 768 pixels
    "sdxl": Media(4, (128, 128), 2048, 77, 1280),
    "edm2": Media(4, (64, 64), pooled_width=1000),  # ImageNet at 512 pixels
    "simple_diffusion": Media(3, (128, 128), pooled_width=1000),  # ImageNet at 128 pixels
    "vdm": Media(3, (64, 64), 1024, 32, frames=16),
    "diamond": Media(3, (64, 64), choices=18),  # Atari, of whose buttons a game uses some
}
MEDIA |= dict.fromkeys(("cross", "double", "double_single", "single", "native"), MEDIA["uvit"])  # never published


def resolve(name: str) -> str:
    """The name of a network, however it is spelled: z-image, zimage and Z_Image are z_image.

    UserError for a name that is not there.
    """
    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "")

    found = [known for known in PUBLISHED if plain(known) == plain(name)]
    if not found:
        raise UserError(f'There is no preset "{name}". {nearest(name, PUBLISHED)}')
    return found[0]


def published(name: str) -> Callable[..., Trunk | UNet]:
    """The function that makes a network, by default at its published size.  UserError as for ``resolve``."""
    return PUBLISHED[resolve(name)]


def published_count(name: str, spec: Any = None) -> Count:
    """Parameters and operations of a network, or of ``spec`` in its place, on what it was published for."""
    media = MEDIA[resolve(name)]
    return count(spec or published(name)(), media.channels, media.size, media.text_width, media.words,
                 media.pooled_width, media.frames, media.choices)

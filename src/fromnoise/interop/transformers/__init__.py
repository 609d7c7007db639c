"""Diffusers' transformers as settings of the trunk, and where their weights go; one file a family."""

from fromnoise.interop.transformers.common import Config, Family
from fromnoise.interop.transformers.dit import DIT
from fromnoise.interop.transformers.flux1 import FLUX1
from fromnoise.interop.transformers.flux2 import FLUX2
from fromnoise.interop.transformers.lumina2 import LUMINA2, Z_IMAGE
from fromnoise.interop.transformers.pixart import PIXART
from fromnoise.interop.transformers.prx import PRX
from fromnoise.interop.transformers.qwen import QWEN_IMAGE, QWEN_IMAGE21
from fromnoise.interop.transformers.sana import SANA
from fromnoise.interop.transformers.sd3 import SD3

FAMILIES = {
    "DiTTransformer2DModel": DIT,
    "Flux2Transformer2DModel": FLUX2,
    "FluxTransformer2DModel": FLUX1,
    "Lumina2Transformer2DModel": LUMINA2,
    "PRXTransformer2DModel": PRX,
    "PixArtTransformer2DModel": PIXART,
    "QwenImage21Transformer2DModel": QWEN_IMAGE21,
    "QwenImageTransformer2DModel": QWEN_IMAGE,
    "SD3Transformer2DModel": SD3,
    "SanaTransformer2DModel": SANA,
    "ZImageTransformer2DModel": Z_IMAGE,
}

__all__ = ["FAMILIES", "Config", "Family"]

"""Diffusers' transformers as settings of the trunk, and where their weights go; one file a family."""

from fromnoise.interop.transformers.common import Config, Family
from fromnoise.interop.transformers.flux1 import FLUX1
from fromnoise.interop.transformers.flux2 import FLUX2
from fromnoise.interop.transformers.lumina2 import LUMINA2, Z_IMAGE
from fromnoise.interop.transformers.qwen import QWEN_IMAGE, QWEN_IMAGE21
from fromnoise.interop.transformers.sd3 import SD3

FAMILIES = {
    "Flux2Transformer2DModel": FLUX2,
    "FluxTransformer2DModel": FLUX1,
    "Lumina2Transformer2DModel": LUMINA2,
    "QwenImage21Transformer2DModel": QWEN_IMAGE21,
    "QwenImageTransformer2DModel": QWEN_IMAGE,
    "SD3Transformer2DModel": SD3,
    "ZImageTransformer2DModel": Z_IMAGE,
}

__all__ = ["FAMILIES", "Config", "Family"]

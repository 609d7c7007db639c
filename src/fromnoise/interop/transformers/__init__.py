"""Diffusers' transformers as settings of the trunk, and where their weights go; one file a family."""

from fromnoise.interop.transformers.common import Config, Family
from fromnoise.interop.transformers.dit import DIT
from fromnoise.interop.transformers.flux1 import FLUX1
from fromnoise.interop.transformers.pixart import PIXART
from fromnoise.interop.transformers.prx import PRX
from fromnoise.interop.transformers.sana import SANA
from fromnoise.interop.transformers.sd3 import SD3

FAMILIES = {
    "DiTTransformer2DModel": DIT,
    "FluxTransformer2DModel": FLUX1,
    "PRXTransformer2DModel": PRX,
    "PixArtTransformer2DModel": PIXART,
    "SD3Transformer2DModel": SD3,
    "SanaTransformer2DModel": SANA,
}

__all__ = ["FAMILIES", "Config", "Family"]

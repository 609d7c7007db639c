"""Diffusers' transformers as settings of the trunk, and where their weights go; one file a family."""

from fromnoise.interop.transformers.common import Config, Family
from fromnoise.interop.transformers.flux1 import FLUX1
from fromnoise.interop.transformers.sd3 import SD3

FAMILIES = {
    "FluxTransformer2DModel": FLUX1,
    "SD3Transformer2DModel": SD3,
}

__all__ = ["FAMILIES", "Config", "Family"]

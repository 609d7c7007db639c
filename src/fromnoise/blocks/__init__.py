"""What networks share."""

from fromnoise.blocks.attention import (
    Attention,
    RelativeBias,
    attend,
    attend_heads,
    attend_linear,
    attend_math,
    rms_norm,
)
from fromnoise.blocks.embed import Embedder, sincos_2d, sinusoid
from fromnoise.blocks.joint import BlockSpec, JointBlock, StreamLayer
from fromnoise.blocks.layers import Block, mean_text, norm, token_shift, word_shift
from fromnoise.blocks.masks import Cache, Mask
from fromnoise.blocks.packed import packable, packed
from fromnoise.blocks.patches import feature_maps, patchify, place_waves, unpatchify
from fromnoise.blocks.perturb import UNDISTURBED, Perturbation
from fromnoise.blocks.recalled import recalling
from fromnoise.blocks.ring import Ring
from fromnoise.blocks.rotary import coordinates, turn, turns
from fromnoise.blocks.settings import AttentionSpec, FeedForwardSpec, ModulationSpec, TemporalSpec
from fromnoise.blocks.streams import Around, Clock, Tokens
from fromnoise.blocks.temporal import Frames, TemporalLayer
from fromnoise.blocks.unit_joint import UnitStreamLayer

__all__ = [
    "UNDISTURBED", "Around", "Attention", "AttentionSpec", "Block", "BlockSpec", "Cache", "Clock", "Embedder",
    "FeedForwardSpec", "Frames", "JointBlock", "Mask", "ModulationSpec", "Perturbation", "RelativeBias", "Ring",
    "StreamLayer", "TemporalLayer", "TemporalSpec", "Tokens", "UnitStreamLayer", "attend", "attend_heads",
    "attend_linear", "attend_math", "coordinates", "feature_maps", "mean_text", "norm", "packable", "packed",
    "patchify", "place_waves", "recalling", "rms_norm", "sincos_2d", "sinusoid", "token_shift", "turn", "turns",
    "unpatchify", "word_shift",
]

"""What networks share."""

from fromnoise.blocks.attention import (
    Attention,
    RelativeBias,
    attend,
    attend_math,
    rms_norm,
    rotary_table,
    rotate,
)
from fromnoise.blocks.layers import Block, FeedForward, TimeEmbedding, mean_text, norm, token_shift, word_shift
from fromnoise.blocks.patches import patchify, place_waves, unpatchify
from fromnoise.blocks.perturb import UNDISTURBED, Perturbation

__all__ = [
    "UNDISTURBED", "Attention", "Block", "FeedForward", "Perturbation", "RelativeBias", "TimeEmbedding",
    "attend", "attend_math", "mean_text", "norm", "patchify", "place_waves", "rms_norm", "rotary_table", "rotate",
    "token_shift", "unpatchify", "word_shift",
]

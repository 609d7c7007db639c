"""The built-in universe: captioned shapes with ground truth, and the oracle that reads them back."""

from fromnoise.data.universe.captions import Sentence, Thing, parse, sentences, vocabulary
from fromnoise.data.universe.oracle import Reading, Seen, agrees, read, score
from fromnoise.data.universe.render import render, supersampled
from fromnoise.data.universe.scene import COLORS, RELATIONS, SHAPES, SIZES, Scenes, is_held_out, sample_scenes

__all__ = [
    "COLORS", "RELATIONS", "SHAPES", "SIZES", "Reading", "Scenes", "Seen", "Sentence", "Thing", "agrees",
    "is_held_out", "parse", "read", "render", "sample_scenes", "score", "sentences", "supersampled", "vocabulary",
]

"""The built-in universe: captioned shapes with ground truth, and the oracle that reads them back."""

from fromnoise.data.universe.actions import ACTIONS, Action, MovingScenes, World, is_held_out_motion, sample_motion
from fromnoise.data.universe.captions import Sentence, Thing, parse, sentences, vocabulary
from fromnoise.data.universe.motion import Paths, paths
from fromnoise.data.universe.motion_oracle import Bounce, Moved, Watched, score_motion, tells, watch
from fromnoise.data.universe.oracle import Reading, Seen, agrees, read, score
from fromnoise.data.universe.render import render, supersampled
from fromnoise.data.universe.scene import COLORS, RELATIONS, SHAPES, SIZES, Scenes, is_held_out, sample_scenes
from fromnoise.data.universe.stories import Clause, Story, parse_story, stories, told

__all__ = [
    "ACTIONS", "COLORS", "RELATIONS", "SHAPES", "SIZES", "Action", "Bounce", "Clause", "Moved", "MovingScenes", "Paths",
    "Reading", "Scenes", "Seen", "Sentence", "Story", "Thing", "Watched", "World", "agrees", "is_held_out",
    "is_held_out_motion", "parse", "parse_story", "paths", "read", "render", "sample_motion", "sample_scenes", "score",
    "score_motion", "sentences", "stories", "supersampled", "tells", "told", "vocabulary", "watch",
]

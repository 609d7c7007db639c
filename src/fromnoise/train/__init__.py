"""Training."""

from fromnoise.train.hooks import Hooks, Result
from fromnoise.train.loop import train
from fromnoise.train.stopping import Interrupted

__all__ = ["Hooks", "Interrupted", "Result", "train"]

"""Training."""

from fromnoise.train.loop import Hooks, Interrupted, Result, train

__all__ = ["Hooks", "Interrupted", "Result", "train"]

"""Measuring a world: whether it does what it is told, what would have been otherwise, and whether it lasts."""

from fromnoise.worlds.measure.measure import Measuring, measure
from fromnoise.worlds.measure.report import Figure, Measured

__all__ = ["Figure", "Measured", "Measuring", "measure"]

"""The trunk: one diffusion transformer, of which published ones are settings."""

from fromnoise.nets.trunk.net import TrunkNet
from fromnoise.nets.trunk.settings import Learned, NoPositions, Relative, Rotary, SinCos, TextSpec, TimeSpec, Trunk

__all__ = ["Learned", "NoPositions", "Relative", "Rotary", "SinCos", "TextSpec", "TimeSpec", "Trunk", "TrunkNet"]

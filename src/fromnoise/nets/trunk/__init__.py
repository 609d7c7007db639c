"""The trunk: one diffusion transformer, of which published ones are settings."""

from fromnoise.nets.trunk.acting import ByModulation, ByToken
from fromnoise.nets.trunk.net import TrunkNet
from fromnoise.nets.trunk.outcomes import Outcome, foretelling
from fromnoise.nets.trunk.routing import MaskDiT, NoRouting, Route, Sprint, Tread
from fromnoise.nets.trunk.settings import (
    Learned,
    NoPositions,
    Relative,
    Rotary,
    SinCos,
    Temporal,
    TextSpec,
    TimeSpec,
    Trunk,
)

__all__ = ["ByModulation", "ByToken", "Learned", "MaskDiT", "NoPositions", "NoRouting", "Outcome", "Relative", "Rotary",
           "Route", "SinCos", "Sprint", "Temporal", "TextSpec", "TimeSpec", "Tread", "Trunk", "TrunkNet", "foretelling"]

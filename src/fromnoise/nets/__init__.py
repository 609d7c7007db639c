"""Networks: the transformer trunk and the U-Net."""

from fromnoise.nets.count import Count, count
from fromnoise.nets.tap import Tap, Tapped, tap_count
from fromnoise.nets.trunk import Trunk, TrunkNet
from fromnoise.nets.trunk.house import house
from fromnoise.nets.unet import UNet
from fromnoise.nets.unet_net import UNetNet

__all__ = ["Count", "Tap", "Tapped", "Trunk", "TrunkNet", "UNet", "UNetNet", "count", "house", "tap_count"]

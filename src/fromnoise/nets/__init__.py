"""Networks: the transformer trunk and the U-Net."""

from fromnoise.nets.count import Count, count
from fromnoise.nets.transformer import Transformer, TransformerNet
from fromnoise.nets.unet import UNet, UNetNet

__all__ = ["Count", "Transformer", "TransformerNet", "UNet", "UNetNet", "count"]

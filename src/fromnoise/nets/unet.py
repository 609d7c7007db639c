"""A small U-Net: residual convolutions at three scales, attention over picture and words at the coarsest.

After DDPM (Ho et al. 2020) and ADM (Dhariwal and Nichol 2021): adaptive group norm for time and pooled
text, skip connections by concatenation.  Frames ride along in the batch, each with its own clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from fromnoise.blocks import UNDISTURBED, Attention, Perturbation, TimeEmbedding, mean_text
from fromnoise.config import spec
from fromnoise.types import Condition, UserError


@spec
class UNet:
    """A convolutional U-Net with text."""

    kind: Literal["unet"] = "unet"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels at full resolution (a multiple of 8)."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Channels at each scale, relative to the width; every scale but the last halves the picture."""
    blocks: Annotated[int, Field(ge=1)] = 1
    """Residual blocks a scale."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Heads of the attention at the coarsest scale."""

    def build(self, channels: int, text_width: int | None, pooled_width: int | None = None) -> UNetNet:
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError("net.multipliers needs at least one number, each 1 or more.")
        if self.width * self.multipliers[-1] % self.heads:
            raise UserError(f"net.heads {self.heads} does not divide the coarsest width "
                            f"{self.width * self.multipliers[-1]}.")
        return UNetNet(self, channels, text_width)

    @property
    def multiple(self) -> int:
        """Media sides must be multiples of this."""
        return 2 ** (len(self.multipliers) - 1)


class ResidualBlock(nn.Module):
    """norm, conv, adaptive norm, conv, plus the input; the second convolution starts at zero."""

    def __init__(self, inside: int, outside: int, features: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.modulation = nn.Linear(features, 2 * outside)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.modulation(features)[..., None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(torch.addcmul(shift, self.norm2(y), 1 + scale)))
        return self.skip(x) + y


class TextAttention(nn.Module):
    """Every place of the coarsest picture looks at all places and at all words."""

    def __init__(self, channels: int, heads: int, text_width: int | None):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.attention = Attention(channels, heads)
        self.text_in = None if text_width is None else nn.Linear(text_width, channels)
        nn.init.zeros_(self.attention.out.weight)

    def forward(self, x: Tensor, text: Tensor | None, mask: Tensor | None, perturb: Perturbation) -> Tensor:
        if perturb.skips(0):
            return x
        B, C, h, w = x.shape
        tokens, bias, L = self.norm(x).flatten(2).transpose(1, 2), None, 0
        if self.text_in is not None and text is not None:
            L = text.shape[1]
            tokens = torch.cat([self.text_in(text), tokens], dim=1)
            if mask is not None:
                bias = F.pad(torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf")), (0, h * w))
                bias = bias[:, None, None, :]
        bias = perturb.bias(0, bias, L, tokens)
        return x + self.attention(tokens, bias)[:, L:].transpose(1, 2).reshape(B, C, h, w)


class UNetNet(nn.Module):
    """``(x [B, T, C, H, W], t [B, T], condition) -> [B, T, C, H, W]``; ``perturb`` disturbs its one attention."""

    attention_layers = 1

    def __init__(self, spec: UNet, channels: int, text_width: int | None):
        super().__init__()
        self.spec = spec
        widths = [spec.width * m for m in spec.multipliers]
        features = 4 * spec.width
        self.time = TimeEmbedding(features)
        self.text = None if text_width is None else nn.Linear(text_width, features)
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up, skips, current = nn.ModuleList(), nn.ModuleList(), [widths[0]], widths[0]
        for width in widths:
            blocks = nn.ModuleList()
            for _ in range(spec.blocks):
                blocks.append(ResidualBlock(current, width, features))
                current = width
                skips.append(current)
            self.down.append(blocks)
        self.middle = ResidualBlock(current, current, features)
        self.attention = TextAttention(current, spec.heads, text_width)
        for width in reversed(widths):
            blocks = nn.ModuleList()
            for _ in range(spec.blocks):
                blocks.append(ResidualBlock(current + skips.pop(), width, features))
                current = width
            self.up.append(blocks)
        self.norm_out = nn.GroupNorm(8, current + skips.pop())
        self.conv_out = nn.Conv2d(self.norm_out.num_channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation = UNDISTURBED) -> Tensor:
        T = x.shape[1]
        features = self.time(t)
        text, mask = condition.text, condition.mask
        if self.text is not None and text is not None:
            features = features + self.text(mean_text(text, mask))[:, None]
            text = text.repeat_interleave(T, 0)
            mask = None if mask is None else mask.repeat_interleave(T, 0)
        features = F.silu(features.flatten(0, 1))
        y = self.conv_in(x.flatten(0, 1))
        skips = [y]
        for level, blocks in enumerate(self.down):
            y = F.avg_pool2d(y, 2) if level else y
            for block in blocks:  # type: ignore[union-attr]
                y = block(y, features)
                skips.append(y)
        y = self.attention(self.middle(y, features), text, mask, perturb)
        for level, blocks in enumerate(self.up):
            y = F.interpolate(y, scale_factor=2.0) if level else y
            for block in blocks:  # type: ignore[union-attr]
                y = block(torch.cat([y, skips.pop()], dim=1), features)
        y = torch.cat([y, skips.pop()], dim=1)
        return self.conv_out(F.silu(self.norm_out(y))).view(x.shape)

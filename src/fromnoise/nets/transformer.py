"""The transformer trunk: words and patches share one attention sequence.

    tokens = [text tokens ; patches]  ->  depth x (adaLN block)  ->  patches  ->  media

Time enters by modulation, one clock a frame; words follow the mean clock of the frames.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fromnoise.blocks import (
    UNDISTURBED,
    Block,
    Perturbation,
    RelativeBias,
    TimeEmbedding,
    feature_maps,
    mean_text,
    norm,
    patchify,
    place_waves,
    rotary_table,
    token_shift,
    unpatchify,
)
from fromnoise.config import spec
from fromnoise.types import Condition, UserError

PLACE_WAVES = 8  # half-periods of the finest wave that tells patches their place


@spec
class Transformer:
    """A single-stream diffusion transformer."""

    kind: Literal["transformer"] = "transformer"
    patch: Annotated[int, Field(ge=1, le=64)] = 4
    """Side of the square patch that becomes one token."""
    width: Annotated[int, Field(ge=16)] = 96
    """Features of a token."""
    depth: Annotated[int, Field(ge=1)] = 4
    """Number of blocks."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads; must divide the width."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden width of the feed-forward layers, relative to the width."""
    positions: Literal["relative", "rotary"] = "relative"
    """Learned relative-position bias, or axial rotary positions."""
    reach: Annotated[int, Field(ge=1)] = 8
    """Furthest offset, in tokens, that a relative bias tells apart."""
    places: bool = True
    """Tell every patch where in the frame it lies; without it "left of" can only be learned from the borders."""
    token_shift: bool = True
    """Let each patch see a few features of its four neighbours before every sub-layer."""
    pooled_text: bool = True
    """Add the mean of the words to the time embedding that modulates every block (as SD3 does)."""

    def build(self, channels: int, text_width: int | None, pooled_width: int | None = None) -> TransformerNet:
        """The network for media of ``channels`` and text features of ``text_width`` (None: no text).

        The mean of the words is all it pools: a pooled text of ``pooled_width`` is not looked at.
        """
        if self.width % self.heads:
            raise UserError(f"net.width {self.width} is not a multiple of net.heads {self.heads}.")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise UserError(f"Rotary positions turn pairs of features, but net.width {self.width} over net.heads "
                            f"{self.heads} is {self.width // self.heads}, which is odd: choose another of the two.")
        if int(self.width * self.mlp_ratio) < 1:
            raise UserError(f"net.mlp_ratio {self.mlp_ratio} leaves no hidden features at net.width {self.width}.")
        return TransformerNet(self, channels, text_width)

    @property
    def multiple(self) -> int:
        """Media sides must be multiples of this."""
        return self.patch


class TransformerNet(nn.Module):
    """``(x [B, T, C, H, W], t [B, T], condition) -> [B, T, C, H, W]``; ``perturb`` disturbs some of the blocks."""

    def __init__(self, spec: Transformer, channels: int, text_width: int | None):
        super().__init__()
        self.spec, self.attention_layers = spec, spec.depth
        D, heads = spec.width, spec.heads
        self.patch_in = nn.Linear(channels * spec.patch**2, D)
        self.place_in = nn.Linear(2 * PLACE_WAVES, D, bias=False) if spec.places else None
        self.text_in = None if text_width is None else nn.Linear(text_width, D)
        self.pooled_in = None if text_width is None or not spec.pooled_text else nn.Linear(text_width, D)
        self.time = TimeEmbedding(D)
        self.blocks = nn.ModuleList(Block(D, heads, spec.mlp_ratio) for _ in range(spec.depth))
        self.modulation = nn.Linear(D, (6 * spec.depth + 2) * D)
        self.patch_out = nn.Linear(D, channels * spec.patch**2)
        if spec.positions == "relative":
            self.media_bias = RelativeBias(heads, (spec.reach, spec.reach, spec.reach))
            # The two blocks of the logits between words and patches: one number a head each.
            self.cross_bias = nn.Parameter(torch.zeros(2, heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Every block starts as the identity and the output at zero.

        Blocks are opened by their last matrices, which start at zero and which Muon moves at full speed,
        and not by their gates, which start at one: with the gates at zero (adaLN-zero) nothing inside a
        block learns until AdamW has opened them.  What a patch is told (its place, the words) starts louder
        than the noise it sees, or the first thing the trunk would have to learn is to find it in there.
        """
        with torch.no_grad():
            for told in (self.place_in, self.text_in):
                if told is not None:
                    told.weight.mul_(6)
        for p in (self.modulation.weight, self.modulation.bias, self.patch_out.weight, self.patch_out.bias):
            nn.init.zeros_(p)
        gates = self.modulation.bias.data[: 6 * self.spec.depth * self.spec.width].view(self.spec.depth, 6, -1)
        gates[:, [2, 5]] = 1.0
        for block in self.blocks:
            nn.init.zeros_(block.attention.out.weight)  # type: ignore[union-attr]
            nn.init.zeros_(block.feed_forward[2].weight)  # type: ignore[index]

    def forward(self, x: Tensor, t: Tensor, condition: Condition, perturb: Perturbation = UNDISTURBED) -> Tensor:
        B, T, C, H, W = x.shape
        p, D, depth = self.spec.patch, self.spec.width, self.spec.depth
        grid = (T, H // p, W // p)
        tokens = self.patch_in(patchify(x, p))
        if self.place_in is not None:
            tokens = tokens + self.place_in(place_waves(*grid[1:], PLACE_WAVES, x.device).to(x.dtype)).repeat(T, 1)
        L = 0
        if self.text_in is not None and condition.text is not None:
            L = condition.text.shape[1]
            tokens = torch.cat([self.text_in(condition.text), tokens], dim=1)
        modulation = self.modulate(t.expand(B, T), condition, L, grid).view(B, -1, 6 * depth + 2, D)
        bias, rotary = self.positions(L, grid, condition.mask, tokens)
        mix = (lambda y: token_shift(y, grid, L)) if self.spec.token_shift else None
        for i, block in enumerate(self.blocks):
            if not perturb.skips(i):
                seen = perturb.bias(i, bias, L, tokens)
                tokens = block(tokens, modulation[:, :, 6 * i : 6 * i + 6], seen, rotary, mix)
        shift, scale = modulation[:, -(T * grid[1] * grid[2]) :, -2:].unbind(2) if modulation.shape[1] > 1 \
            else modulation[:, :, -2:].unbind(2)
        out = self.patch_out(torch.addcmul(shift, norm(tokens[:, L:]), 1 + scale))
        return unpatchify(out, p, (T, C, H, W))

    @property
    def taps(self) -> list[nn.Module]:
        """The blocks, in order, for ``Tap``."""
        return list(self.blocks)

    def picture(self, said: Tensor, x: Tensor) -> Tensor:
        """The features ``[B, T, D, h, w]`` in what a block said: words come first."""
        grid = (x.shape[1], x.shape[3] // self.spec.patch, x.shape[4] // self.spec.patch)
        return feature_maps(said[:, -math.prod(grid) :], grid)

    def modulate(self, t: Tensor, condition: Condition, L: int, grid: tuple[int, int, int]) -> Tensor:
        """Modulation vectors for every token, or one for all of them where they share a clock."""
        T, h, w = grid
        features = self.time(t)
        if self.pooled_in is not None and condition.text is not None:
            features = features + self.pooled_in(mean_text(condition.text, condition.mask))[:, None]
        frames = self.modulation(nn.functional.silu(features))
        if T == 1:
            return frames
        text = frames.mean(1, keepdim=True).expand(-1, L, -1)
        return torch.cat([text, frames.repeat_interleave(h * w, dim=1)], dim=1)

    def positions(self, L: int, grid: tuple[int, int, int], mask: Tensor | None, like: Tensor):
        """(bias that broadcasts against ``[B, heads, N, N]`` or None, rotary angles ``[N, d/2]`` or None)."""
        where = grid_positions(grid, like.device)
        N = L + len(where)
        bias, rotary = None, None
        if self.spec.positions == "relative":
            text_row = self.cross_bias[0].view(-1, 1, 1).expand(-1, L, N)
            image_row = torch.cat([self.cross_bias[1].view(-1, 1, 1).expand(-1, N - L, L), self.media_bias(where)], 2)
            bias = torch.cat([text_row, image_row], dim=1)[None].to(like.dtype)
        else:
            text = torch.zeros(L, 3, device=like.device)
            rotary = rotary_table(torch.cat([text, where + 1.0]), self.spec.width // self.spec.heads)
        if mask is not None and L:
            hidden = torch.zeros(mask.shape[0], 1, 1, N, device=like.device, dtype=like.dtype)
            hidden[:, 0, 0, :L].masked_fill_(~mask, float("-inf"))
            bias = hidden if bias is None else bias + hidden
        return bias, rotary


def grid_positions(grid: tuple[int, int, int], device: torch.device | None = None) -> Tensor:
    """Integer (frame, row, column) of every token, ``[T h w, 3]``."""
    axes = [torch.arange(n, device=device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)

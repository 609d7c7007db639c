"""What goes into the trunk and comes out: the vector of the noise level, text, places, and the last layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fromnoise.blocks import (
    Cache,
    Clock,
    Embedder,
    RelativeBias,
    Ring,
    coordinates,
    mean_text,
    place_waves,
    sincos_2d,
    sinusoid,
    turns,
)
from fromnoise.blocks.attention import looked_up
from fromnoise.blocks.joint import modulated
from fromnoise.nets.trunk.settings import Relative, Rotary, SinCos, TextSpec, TimeSpec, Trunk
from fromnoise.types import Condition, UserError

TABLES = 64  # so many sizes and frames are remembered
LARGE = 2**18  # pairs of tokens of which nothing is remembered
PLACE_WAVES = 8  # half-periods of the finest wave that tells patches their place


class Conditioner(nn.Module):
    """Noise level, pooled text and numbers to one vector: ``[B, R]`` clocks to ``[B, R, F]``."""

    def __init__(self, spec: TimeSpec, width: int, text_width: int | None, pooled_width: int | None):
        super().__init__()
        self.spec = spec
        pooled_width = text_width if spec.pooled == "mean" else pooled_width
        width, hidden = spec.width or width, spec.hidden or spec.width or width
        self.time = Embedder(spec.waves, hidden, width, spec.bias) if spec.network else nn.Identity()
        self.pooled = None
        if spec.pooled != "none" and pooled_width is not None:
            self.pooled = {"add": nn.Identity, "mlp": lambda: Embedder(pooled_width, width, width)}.get(
                spec.pooled, lambda: nn.Linear(pooled_width, width))()
        self.numbers = None if spec.numbers == "none" else NUMBERS[spec.numbers](spec, width)

    def forward(self, t: Tensor, condition: Condition, dtype: torch.dtype) -> Tensor:
        t = 1 - t if self.spec.reverse else t
        waves = sinusoid(t * self.spec.scale, self.spec.waves, self.spec.period, self.spec.shift)
        features = self.time(waves.to(dtype))
        pooled = pooled_text(self.spec, condition)
        if self.pooled is not None and pooled is not None:
            features = features + self.pooled(pooled.to(dtype))[:, None]
        told = condition.fps if self.spec.numbers == "fps" else condition.numbers
        if self.numbers is not None and told is not None:
            features = features + self.numbers(told, dtype)[:, None]
        return features


def pooled_text(spec: TimeSpec, condition: Condition) -> Tensor | None:
    """One vector for the whole text ``[B, P]``: that of the condition, or the mean of its words."""
    if spec.pooled != "mean":
        return condition.pooled
    return None if condition.text is None else mean_text(condition.text, condition.mask)


class GuidanceScale(nn.Module):
    """A guidance scale ``[B, 1]``, as the noise level is told (Meng et al. 2023; Flux-dev)."""

    def __init__(self, spec: TimeSpec, width: int):
        super().__init__()
        self.waves, self.scale = spec.waves, spec.guidance_scale
        self.embed = Embedder(spec.waves, width, width, spec.bias)

    def forward(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return self.embed(sinusoid(numbers[:, 0] * self.scale, self.waves).to(dtype))


class Size(nn.Module):
    """Height and width ``[B, 2]``, half of the waves each, in one small network (PRX)."""

    def __init__(self, spec: TimeSpec, width: int):
        super().__init__()
        self.waves, self.embed = spec.waves, Embedder(spec.waves, width, width)

    def forward(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        return self.embed(sinusoid(numbers, self.waves // 2).flatten(1).to(dtype))


class SizeAspect(nn.Module):
    """Height, width and aspect ratio ``[B, 3]``, a third of the features each (PixArt)."""

    def __init__(self, spec: TimeSpec, width: int):
        super().__init__()
        self.waves = spec.waves
        self.size, self.aspect = (Embedder(spec.waves, width // 3, width // 3) for _ in range(2))

    def forward(self, numbers: Tensor, dtype: torch.dtype) -> Tensor:
        waves = sinusoid(numbers, self.waves).to(dtype)
        return torch.cat([self.size(waves[:, :2]).flatten(1), self.aspect(waves[:, 2])], dim=-1)


class FrameRate(nn.Module):
    """Frames a second ``[B]``, by waves as they are (SVD, Blattmann et al. 2023)."""

    def __init__(self, spec: TimeSpec, width: int):
        super().__init__()
        self.waves, self.embed = spec.waves, Embedder(spec.waves, width, width, spec.bias)

    def forward(self, fps: Tensor, dtype: torch.dtype) -> Tensor:
        return self.embed(sinusoid(fps, self.waves).to(dtype))


NUMBERS = {"guidance": GuidanceScale, "size": Size, "size_aspect": SizeAspect, "fps": FrameRate}


class TextIn(nn.Module):
    """Text features ``[B, L, W]`` to tokens ``[B, L, D]``."""

    def __init__(self, spec: TextSpec, text_width: int, width: int):
        super().__init__()
        self.before = nn.RMSNorm(text_width, spec.eps) if spec.norm else nn.Identity()
        self.map = nn.Linear(text_width, width, bias=spec.bias) if spec.map == "linear" else \
            Embedder(text_width, width, width, spec.bias, nn.GELU(approximate="tanh"))
        self.after = nn.RMSNorm(width, spec.eps) if spec.norm_after else nn.Identity()

    def forward(self, text: Tensor) -> Tensor:
        return self.after(self.map(self.before(text)))


class Places(nn.Module):
    """What positions add to the patches, and by what they turn queries and keys; tables are made once for a size."""

    def __init__(self, spec: Trunk):
        super().__init__()
        self.spec, p, head = spec, spec.positions, spec.attention.heads
        self.tables: dict[tuple, Any] = {}
        if p.kind == "learned":
            self.table = nn.Parameter(torch.randn(p.words + p.places, spec.width) * 0.02)
        if isinstance(p, Relative):
            self.media_bias = RelativeBias(head, (p.reach,) * 3)
            if not spec.cross:  # words are in the sequence
                self.cross_bias = nn.Parameter(torch.zeros(2, head))

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, made once for a key."""
        if key not in self.tables:
            if len(self.tables) >= TABLES:
                self.tables.clear()
            with torch.inference_mode(False):  # a table outlives the call that made it
                self.tables[key] = make()
        return self.tables[key]

    def waves(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """``place_waves`` of a picture of so many patches."""
        return self.once(("waves", rows, columns, like.device, like.dtype),
                         lambda: place_waves(rows, columns, PLACE_WAVES, like.device).to(like.dtype))

    def added(self, grid: tuple[int, int, int], like: Tensor) -> Tensor | None:
        """``[T h w, D]`` to be added to the patches, or None."""
        p = self.spec.positions
        if p.kind == "learned":
            if math.prod(grid) != p.places:
                raise UserError(f"This network has learned {p.places} places and cannot take a picture of "
                                f"{math.prod(grid)} patches: give it the size it was trained on.")
            return self.table[p.words :]
        if not isinstance(p, SinCos) and not (isinstance(p, Rotary) and p.sincos):
            return None

        def table() -> Tensor:
            made = sincos_2d(self.steps(grid[1]), self.steps(grid[2]), self.spec.width).repeat(grid[0], 1)
            return made.to(device=like.device, dtype=like.dtype)

        return self.once(("sincos", *grid, like.device, like.dtype), table)

    def steps(self, n: int) -> Tensor:
        """Coordinates of ``n`` rows or columns."""
        p = self.spec.positions
        if not isinstance(p, SinCos):
            return torch.arange(n).float()
        table = p.table or n
        return (torch.arange(n) + (table - n) // 2).float() / (table / p.base) / p.scale

    def turns(self, grid: tuple[int, int, int], words: int, lengths: Tensor | None, frame: int | tuple[int, ...],
              like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Turns of words and of patches (``coordinates``) of the dtype and device of ``like``, or None where positions
        do not turn.  frame: the number of the first, or that of each row."""
        p = self.spec.positions
        if not isinstance(p, Rotary):
            return None, None
        if not isinstance(frame, int):  # the words have been seen
            rows = [self.turns(grid, words, None if lengths is None else lengths[i : i + 1], number, like)[1]
                    for i, number in enumerate(frame)]
            return None, torch.stack([row.squeeze(0) if row.ndim == 3 else row for row in rows if row is not None])
        device = like.device
        follow = lengths if p.words == "first" else None
        axes = p.dealt(self.spec.width // self.spec.attention.heads)

        def made() -> tuple[Tensor | None, Tensor]:
            text, picture = coordinates(grid, words, len(axes), p.words, centred=p.centred, start=p.start,
                                        corner=p.corner, lengths=follow, frame=frame, device=device)
            return (None if p.words == "none" else turns(text, axes, p.theta, like.dtype),
                    turns(picture, axes, p.theta, like.dtype))

        return made() if follow is not None else self.once(("turns", *grid, words, frame, device, like.dtype), made)

    def ahead(self, frames: Tensor) -> Tensor:
        """The turns ``[R, d/2]`` that move a token on by so many frames ``[R]``."""
        p = self.spec.positions
        assert isinstance(p, Rotary)
        axes = p.dealt(self.spec.width // self.spec.attention.heads)
        return turns(F.pad(frames[:, None], (0, len(axes) - 1)), axes, p.theta, torch.float64)

    def joining(self, cache: Cache | Ring | None):
        """How keys and values join those of a cache, for ``Around``."""
        if not isinstance(cache, Ring):
            return None if cache is None else cache.join
        p = self.spec.positions
        turned = isinstance(p, Rotary) and len(p.dealt(self.spec.width // self.spec.attention.heads)) > 2
        return partial(cache.join, ahead=self.ahead if turned else None)

    def unturned(self, like: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Turns that leave ``tokens`` ``[B, N, D]`` as they are, where those of the picture are ``like``."""
        return None if like is None else like.new_ones(tokens.shape[1], like.shape[-1])

    def add_words(self, text: Tensor) -> Tensor:
        """Words with their learned places, where there are any."""
        p = self.spec.positions
        if p.kind != "learned" or not p.words:
            return text
        if text.shape[1] > p.words:
            raise UserError(f"This network has learned {p.words} places for words and cannot take {text.shape[1]}.")
        return text + self.table[: text.shape[1]]

    def bias(self, grid: tuple[int, int, int], words: int, past_words: int = 0,
             past_frames: int = 0) -> Tensor | None:
        """Learned bias ``[1, heads, N, M]`` of N words and patches over these and those of the past, or None."""
        if not isinstance(self.spec.positions, Relative):
            return None
        now, words, seen = words + math.prod(grid), words + past_words, (past_frames + grid[0], *grid[1:])
        make, large = partial(self.entries, now, words, seen), now * (words + math.prod(seen)) > LARGE
        entries = make() if large else self.once(("entries", now, words, *seen, self.media_bias.table.device), make)
        biases = self.media_bias.biases()
        if not self.spec.cross:
            biases = torch.cat([biases, self.cross_bias.T], dim=1)
        return looked_up(biases, entries)[None]

    def entries(self, now: int, words: int, seen: tuple[int, int, int]) -> Tensor:
        """``[now, M]``: the learned biases of the last ``now`` of words and patches, of which there are M in all.

        Two come after those of offsets: that of a word, whatever it looks at, and that of a patch that looks at a word.
        """
        axes = [torch.arange(n, device=self.media_bias.table.device) for n in seen]
        where = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        last = self.media_bias.table[0].numel()
        from_patch = F.pad(self.media_bias.entries(where), (words, 0), value=last + 1)
        return F.pad(from_patch, (0, 0, words, 0), value=last)[-now:]


class Head(nn.Module):
    """The last layer: a norm, shifted and scaled by the noise level, and a linear map to patches."""

    def __init__(self, spec: Trunk, features: int, channels: int):
        super().__init__()
        self.spec, self.channels = spec, channels
        D = spec.width
        plain = spec.head == "plain"
        self.norm = nn.RMSNorm(D, spec.norm_eps) if spec.head_norm == "rms" else \
            nn.LayerNorm(D, spec.norm_eps if plain else 1e-6, elementwise_affine=plain)
        vectors = {"shift_scale": 2, "scale": 1}.get(spec.head, 0)
        self.modulation = nn.Linear(features, vectors * D, bias=spec.modulation.bias) if vectors else None
        self.table = nn.Parameter(torch.zeros(2, D)) if spec.head == "table" else None
        self.out = nn.Linear(D, channels * spec.patch**2, bias=spec.head_bias)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if spec.head_conv else None

    def forward(self, x: Tensor, clock: Clock) -> Tensor:
        """Tokens ``[B, N, D]`` and the clock, whose signal is the vector before any SiLU, to ``[B, N, C p p]``."""
        shift = scale = None
        if self.table is not None:
            shift, scale = (clock.spread(clock.signal + row) for row in self.table)
        elif self.modulation is not None:
            *first, scale = clock.spread(self.modulation(F.silu(clock.signal))).chunk(
                2 if self.spec.head == "shift_scale" else 1, dim=-1)
            shift = first[0] if first else None
        return self.out(modulated(self.norm(x), shift, scale))

    def picture(self, x: Tensor) -> Tensor:
        """Media ``[B, T, C, H, W]`` after the last convolution, where there is one."""
        return x if self.conv is None else self.conv(x.flatten(0, 1)).view(x.shape)


class ClassTokens(nn.Module):
    """The pooled text or class ``[B, P]`` as ``count`` tokens, each with its own learned place (JiT).

    As it is where it is also added to the noise level as it is, else by a linear map.
    """

    def __init__(self, spec: Trunk, pooled_width: int):
        super().__init__()
        self.map = nn.Identity() if spec.time.pooled == "add" else nn.Linear(pooled_width, spec.width)
        self.position = nn.Parameter(torch.randn(spec.class_tokens, spec.width) * 0.02)

    def forward(self, pooled: Tensor | None, batch: int) -> Tensor:
        told = 0 if pooled is None else self.map(pooled)[:, None]
        return told + self.position.expand(batch, -1, -1)

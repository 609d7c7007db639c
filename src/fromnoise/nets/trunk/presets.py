"""Published diffusion transformers as settings of the trunk.

Each function returns a ``Trunk`` at its published size; its arguments are the numbers in which the sizes of a family
differ, so that the same function makes a network for a laptop.  What a preset does not name it shares with all.
"""

from __future__ import annotations

from collections.abc import Callable

from fromnoise.blocks import AttentionSpec, FeedForwardSpec
from fromnoise.nets.trunk.settings import Rotary, SinCos, TimeSpec, Trunk

PLAIN = AttentionSpec(heads=1, qk_norm="none", bias=True, out_bias=True)
GELU = FeedForwardSpec(ratio=4.0, activation="gelu_tanh", bias=True)
SWIGLU = FeedForwardSpec(activation="silu", gated=True)


def heads(spec: AttentionSpec, n: int, **changes) -> AttentionSpec:
    """The same attention with ``n`` heads."""
    from dataclasses import replace

    return replace(spec, heads=n, **changes)


def axes(width: int, heads: int, shares: tuple[int, ...]) -> tuple[int, ...]:
    """Features of a head dealt out to the axes in the published ``shares``, each an even number."""
    pairs, total = width // heads // 2, sum(shares)
    dealt = [max(1, pairs * share // total) for share in shares]
    dealt[-1] += pairs - sum(dealt)
    return tuple(2 * n for n in dealt)


def dit(width: int = 1152, heads_: int = 16, depth: int = 28, patch: int = 2, base: int = 16) -> Trunk:
    """DiT-XL/2 (Peebles and Xie 2022): one stream, adaLN-zero, class added to the noise level, learned sigma."""
    return Trunk(patch=patch, width=width, single=depth, attention=heads(PLAIN, heads_), feed_forward=GELU,
                 time=TimeSpec(pooled="add"), positions=SinCos(base=base), learned_sigma=True)


def sit(width: int = 1152, heads_: int = 16, depth: int = 28, patch: int = 2, base: int = 16) -> Trunk:
    """SiT-XL/2 (Ma et al. 2024): DiT that predicts a velocity and is told t in [0, 1], 1 for data."""
    return Trunk(patch=patch, width=width, single=depth, attention=heads(PLAIN, heads_), feed_forward=GELU,
                 time=TimeSpec(pooled="add", scale=1.0, reverse=True), positions=SinCos(base=base), learned_sigma=True)


def sd3(width: int = 1536, heads_: int = 24, depth: int = 24, base: int = 64, table: int = 192) -> Trunk:
    """Stable Diffusion 3 medium (Esser et al. 2024): text and picture with their own weights, one attention."""
    return Trunk(width=width, double=depth, text_ends=True, attention=heads(PLAIN, heads_), feed_forward=GELU,
                 time=TimeSpec(pooled="mlp"), positions=SinCos(base=base, table=table))


def flux1(width: int = 3072, heads_: int = 24, double: int = 19, single: int = 38, guided: bool = True) -> Trunk:
    """Flux.1 (Black Forest Labs 2024): double, then single blocks with attention and feed-forward side by side."""
    return Trunk(width=width, double=double, single=single, parallel=True, feed_forward=GELU,
                 attention=heads(PLAIN, heads_, qk_norm="rms"),
                 time=TimeSpec(pooled="mlp", numbers="guidance" if guided else "none"),
                 positions=Rotary(axes=axes(width, heads_, (16, 56, 56)), words="zero"))


PRESETS: dict[str, Callable[..., Trunk]] = {f.__name__: f for f in (dit, sit, sd3, flux1)}

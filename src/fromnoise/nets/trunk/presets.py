"""Published diffusion transformers as settings of the trunk.

Each function returns a ``Trunk`` at its published size; its arguments are the numbers in which the sizes of a family
differ, so that the same function makes a network for a laptop.  What a preset does not name it shares with all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fromnoise.blocks import AttentionSpec, FeedForwardSpec, ModulationSpec
from fromnoise.nets.trunk.attempts import ATTEMPTS
from fromnoise.nets.trunk.house import house
from fromnoise.nets.trunk.settings import Learned, NoPositions, Rotary, SinCos, Temporal, TextSpec, TimeSpec, Trunk

PLAIN = AttentionSpec(heads=1, qk_norm="none", bias=True, out_bias=True)
GELU = FeedForwardSpec(ratio=4.0, activation="gelu_tanh", bias=True)
SWIGLU = FeedForwardSpec(activation="silu", gated=True)


def heads(spec: AttentionSpec, n: int, **changes) -> AttentionSpec:
    """The same attention with ``n`` heads."""
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


def pixart(width: int = 1152, heads_: int = 16, depth: int = 28, base: int = 64, sized: bool = True) -> Trunk:
    """PixArt-alpha XL/2 at 1024 (Chen et al. 2023): cross-attention to a text that stays as it is, adaLN-single.

    ``sized``: it is told the size and aspect ratio that were asked for.
    """
    return Trunk(width=width, cross=depth, attention=heads(PLAIN, heads_), feed_forward=GELU,
                 modulation=ModulationSpec(source="table"), head="table", learned_sigma=True,
                 time=TimeSpec(numbers="size_aspect" if sized else "none"), text=TextSpec(map="mlp"),
                 positions=SinCos(base=base, scale=max(base / 32, 1.0)))


def pixart_sigma(width: int = 1152, heads_: int = 16, depth: int = 28, base: int = 64) -> Trunk:
    """PixArt-sigma XL/2 (Chen et al. 2024): PixArt-alpha that is told no size."""
    return pixart(width, heads_, depth, base, sized=False)


def sana(width: int = 2240, heads_: int = 70, depth: int = 20, cross_heads: int = 20, guided: bool = False) -> Trunk:
    """Sana 1.6B (Xie et al. 2024): linear attention, a convolution in the feed-forward and no positions.

    ``guided``: it is told a guidance scale (Sana-Sprint, Chen et al. 2025, which also has norms of queries and keys).
    """
    return Trunk(patch=1, width=width, cross=depth, modulation=ModulationSpec(source="table"), head="table",
                 attention=heads(PLAIN, heads_, kind="linear", bias=False, cross_heads=cross_heads, eps=1e-5,
                                 qk_norm="rms_across" if guided else "none"),
                 feed_forward=replace(SWIGLU, ratio=2.5, conv=True, bias=True), positions=NoPositions(),
                 time=TimeSpec(numbers="guidance" if guided else "none", guidance_scale=0.1),
                 text=TextSpec(map="mlp", norm_after=True, eps=1e-5))


def prx(width: int = 1792, heads_: int = 28, depth: int = 16, patch: int = 2, bottleneck: int = 0,
        sized: bool = False) -> Trunk:
    """PRX (Photoroom 2025): the picture asks itself and a text that stays as it is, in one attention.

    ``bottleneck`` and ``sized``: in pixels, patches are large and the network is told the size of x.
    """
    return Trunk(patch=patch, bottleneck=bottleneck, width=width, read=depth, attention=AttentionSpec(heads=heads_),
                 feed_forward=FeedForwardSpec(ratio=3.5, activation="gelu_tanh", gated=True),
                 time=TimeSpec(numbers="size" if sized else "none"),
                 positions=Rotary(axes=axes(width, heads_, (32, 32)), words="none"))


def uvit(width: int = 512, heads_: int = 8, depth: int = 17, patch: int = 2, places: int = 256,
         words: int = 77) -> Trunk:
    """U-ViT-S/2 Deep (Bao et al. 2022): everything is a token, the noise level too, and long skips join the blocks."""
    return Trunk(patch=patch, width=width, single=depth, long_skips=True, norm_gain=True, norm_eps=1e-5,
                 attention=heads(PLAIN, heads_, bias=False), feed_forward=replace(GELU, activation="gelu"),
                 modulation=ModulationSpec(source="none"), time=TimeSpec(network=False, waves=width),
                 positions=Learned(places=places, words=1 + words), head="plain", head_conv=True)


def jit(width: int = 768, heads_: int = 12, depth: int = 12, patch: int = 16, bottleneck: int = 128) -> Trunk:
    """JiT-B/16 (Li and He 2025): pixels in large patches, and the class as tokens from a third of the depth on.

    It predicts x0, which is the recipe's to say.
    """
    return Trunk(patch=patch, bottleneck=bottleneck, patch_bias=False, width=width, single=depth, class_tokens=32,
                 class_from=depth // 3, norm="rms", norm_gain=True, head_norm="rms",
                 attention=heads(PLAIN, heads_, qk_norm="rms"),
                 feed_forward=replace(SWIGLU, ratio=8 / 3, bias=True),
                 time=TimeSpec(pooled="add", scale=1.0, reverse=True),
                 positions=Rotary(axes=axes(width, heads_, (1, 1)), words="none", sincos=True))


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


def flux2(width: int = 6144, heads_: int = 48, double: int = 8, single: int = 48, guided: bool = True) -> Trunk:
    """Flux.2 dev (Black Forest Labs 2025): Flux.1 without biases, one modulation for all blocks of a kind, SwiGLU."""
    return Trunk(width=width, double=double, single=single, parallel=True, patch_bias=False, head_bias=False,
                 attention=AttentionSpec(heads=heads_, qk_norm="rms"), feed_forward=replace(SWIGLU, ratio=3.0),
                 modulation=ModulationSpec(source="shared", bias=False), text=TextSpec(bias=False),
                 time=TimeSpec(bias=False, numbers="guidance" if guided else "none"),
                 positions=Rotary(axes=axes(width, heads_, (32, 32, 32, 32)), theta=2000.0, words="last"))


def flux2_klein(width: int = 3072, heads_: int = 24, double: int = 5, single: int = 20) -> Trunk:
    """Flux.2 klein 4B (Black Forest Labs 2026): Flux.2 without a guidance scale."""
    return flux2(width, heads_, double, single, guided=False)


def qwen_image(width: int = 3072, heads_: int = 24, depth: int = 60) -> Trunk:
    """Qwen-Image (Wu et al. 2025): double blocks alone; places count from the middle, words beyond its corner."""
    return Trunk(width=width, double=depth, attention=heads(PLAIN, heads_, qk_norm="rms"), feed_forward=GELU,
                 text=TextSpec(norm=True),
                 positions=Rotary(axes=axes(width, heads_, (16, 56, 56)), words="after", centred=True))


def qwen_image21(width: int = 4096, heads_: int = 32, depth: int = 32) -> Trunk:
    """Qwen-Image 2.1 (Qwen team 2026): single blocks with a block-causal mask, and text that is told t = 0."""
    return Trunk(patch=1, width=width, single=depth, mask="causal", head="scale", patch_bias=False, head_bias=False,
                 attention=AttentionSpec(heads=heads_, qk_norm="rms"), feed_forward=replace(SWIGLU, ratio=3.0),
                 modulation=ModulationSpec(source="shared", shift=False, tanh_gate=True, bias=False),
                 time=TimeSpec(bias=False), text=TextSpec(norm=True, map="mlp", bias=False, clean=True),
                 positions=Rotary(axes=axes(width, heads_, (16, 56, 56)), words="before", centred=True))


def lumina2(width: int = 2304, heads_: int = 24, kv_heads: int = 8, depth: int = 26, refine: int = 2) -> Trunk:
    """Lumina-Image 2.0 (Qin et al. 2025): refiners, then single blocks with norms before and after, grouped queries."""
    return Trunk(width=width, refine=refine, single=depth, norm="rms", norm_eps=1e-5, norm_gain=True, sandwich=True,
                 attention=AttentionSpec(heads=heads_, kv_heads=kv_heads, eps=1e-5), head="scale",
                 feed_forward=replace(SWIGLU, ratio=4.0, multiple_of=256),
                 modulation=ModulationSpec(shift=False, tanh_gate=True),
                 time=TimeSpec(width=min(width, 1024), scale=1.0, reverse=True), text=TextSpec(norm=True, eps=1e-5),
                 positions=Rotary(axes=axes(width, heads_, (32, 32, 32)), words="first"))


def z_image(width: int = 3840, heads_: int = 30, depth: int = 30, refine: int = 2) -> Trunk:
    """Z-Image (Z-Image team 2025): Lumina 2 with a narrow modulation and learned tokens that fill text and picture."""
    return Trunk(width=width, refine=refine, single=depth, norm="rms", norm_eps=1e-5, norm_gain=True, sandwich=True,
                 attention=AttentionSpec(heads=heads_, eps=1e-5), feed_forward=replace(SWIGLU, ratio=8 / 3),
                 modulation=ModulationSpec(shift=False, tanh_gate=True, silu=False), head="scale",
                 time=TimeSpec(width=min(width, 256), hidden=1024, reverse=True),
                 text=TextSpec(norm=True, eps=1e-5, pad_to=32),
                 positions=Rotary(axes=axes(width, heads_, (32, 48, 48)), theta=256.0, words="first", start=1))


def latte(width: int = 1152, heads_: int = 16, depth: int = 14, patch: int = 2, base: int = 16) -> Trunk:
    """Latte-XL/2 (Ma et al. 2024): DiT whose every second block is along time, so that frames meet place by place.

    Here these have rotary positions, where Latte adds sines to the tokens, and the noise level modulates their
    attention and not their feed-forward.
    """
    return replace(dit(width, heads_, depth, patch, base), temporal=Temporal(every=1, ratio=4.0))


PRESETS: dict[str, Callable[..., Trunk]] = {f.__name__: f for f in (
    dit, sit, pixart, pixart_sigma, sana, prx, uvit, jit, sd3, flux1, flux2, flux2_klein, qwen_image, qwen_image21,
    lumina2, z_image, latte, house)} | ATTEMPTS

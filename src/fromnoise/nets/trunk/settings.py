"""The trunk: one diffusion transformer whose fields are the choices in which published ones differ.

    text, picture  ->  refine  ->  cross | read | double  ->  single  ->  picture

Any count may be 0.  Presets (``fromnoise.nets.trunk.presets``) are settings of these fields and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from fromnoise.blocks import AttentionSpec, FeedForwardSpec, ModulationSpec, TemporalSpec
from fromnoise.blocks.settings import Count
from fromnoise.config import Short, spec
from fromnoise.nets.trunk.acting import ActionSpec, Untold
from fromnoise.nets.trunk.routing import NoRouting, Routing
from fromnoise.types import Acts, UserError

if TYPE_CHECKING:
    from fromnoise.nets.trunk.net import TrunkNet

Number = Annotated[int, Field(ge=0)]


@spec
class TimeSpec:
    """How the noise level, the pooled text and plain numbers become the vector that modulates."""

    width: Number = 0
    """Features of that vector; 0: the trunk's width."""
    hidden: Number = 0
    """Hidden features of the small network that makes it; 0: its width."""
    waves: Annotated[int, Field(ge=2, multiple_of=2)] = 256
    """Sinusoids of the noise level."""
    scale: Annotated[float, Field(gt=0)] = 1000.0
    """The noise level is multiplied by this before the sinusoids."""
    period: Annotated[float, Field(gt=1)] = 10_000.0
    """Ratio of the fastest to the slowest sinusoid, about (exactly with a shift of 1)."""
    shift: Annotated[float, Field(ge=0, le=1)] = 0.0
    """1: the slowest sinusoid has exactly that period (the first DDPM code); 0: a little less."""
    network: bool = True
    """A small network makes the vector from the sinusoids; without it they are the vector (U-ViT)."""
    reverse: bool = False
    """The network is told 1 - t (models trained with t = 1 for data)."""
    bias: bool = True
    """Biases of the small network."""
    pooled: Literal["none", "add", "linear", "mlp", "mean"] = "none"
    """What becomes of the pooled text or class: nothing, added as it is, by a linear map, or by a small network; mean:
    the mean of the words takes its place, by a linear map."""
    numbers: Literal["none", "guidance", "size", "size_aspect", "fps"] = "none"
    """Numbers the network is told: a guidance scale (distilled models), height and width (PRX; those of x where none
    are given), height, width and aspect ratio (PixArt), or frames a second (of films; 0 for a single frame)."""
    guidance_scale: Annotated[float, Field(gt=0)] = 1000.0
    """A guidance scale is multiplied by this before the sinusoids (Sana-Sprint: 0.1)."""


@spec
class TextSpec:
    """How text features enter."""

    norm: bool = False
    """RMS norm before the map to the trunk's width."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Epsilon of the norms."""
    map: Literal["linear", "mlp"] = "linear"
    """A linear map, or a small network with tanh-GELU."""
    norm_after: bool = False
    """RMS norm after it."""
    bias: bool = True
    """Biases of the map."""
    loud: Annotated[float, Field(gt=0)] = 1.0
    """The map starts with weights so many times larger (6: words are heard over the noise from the first step)."""
    clean: bool = False
    """Text is told t = 0, whatever the noise of the picture is, so that its keys and values can be cached."""
    pad_to: Number = 0
    """Pad text and picture with learned tokens to a multiple of this (Z-Image: 32); 0: no."""


@spec
class NoPositions:
    """Nothing tells tokens apart but what they hold."""

    kind: Literal["none"] = "none"


@spec
class SinCos:
    """Fixed sines and cosines of row and column, added to the patches."""

    kind: Literal["sincos"] = "sincos"
    base: Count = 16
    """Side, in tokens, on which coordinates are 0, 1, 2, ...; other tables are stretched to it."""
    table: Number = 0
    """Side of the table; the centre of a larger table is used (SD3).  0: just the picture."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Coordinates are divided by this."""


@spec
class Learned:
    """A learned vector for every place and word, added (U-ViT); pictures have one size."""

    kind: Literal["learned"] = "learned"
    places: Count = 256
    """Tokens of the picture."""
    words: Number = 0
    """Tokens before it: text, and one for the noise level where that is a token."""


@spec
class Rotary:
    """Queries and keys turned by the place of their token, over several axes."""

    kind: Literal["rotary"] = "rotary"
    axes: tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...] = ()
    """Features of a head for each axis (frame, row, column, more), as many in all as it has; none: even shares of
    frame, row and column."""
    theta: Annotated[float, Field(gt=1)] = 10_000.0
    """The slowest turn is about 1 / theta."""
    words: Literal["zero", "first", "last", "before", "after", "none"] = "zero"
    """Where words stand: all at the origin; along the first axis, before the picture; along the last; along all axes,
    before or after the picture; nowhere."""
    start: Number = 0
    """Coordinate of the first word."""
    corner: Number = 0
    """Coordinate of the first patch on the axes of frame, row and column (1: not where words at the origin are)."""
    centred: bool = False
    """Rows and columns count from the middle of the picture."""
    sincos: bool = False
    """Fixed sines and cosines of row and column are added to the patches as well (JiT)."""

    def dealt(self, size: int) -> tuple[int, ...]:
        """The axes in a head of ``size`` features."""
        return self.axes or tuple(2 * (size // 2 // 3 + (i < size // 2 % 3)) for i in range(3))


@spec
class Relative:
    """A learned bias for every offset between two patches, and two numbers between words and patches."""

    kind: Literal["relative"] = "relative"
    reach: Count = 8
    """Furthest offset, in tokens, that is told apart."""


Positions = Annotated[NoPositions | SinCos | Learned | Rotary | Relative, Field(discriminator="kind")]


@spec
class Temporal(TemporalSpec):
    """Layers along time between the blocks, which then see each frame by itself (factorised attention)."""

    every: Number = 0
    """A layer behind every so many blocks (1: behind each); 0: there is none, and blocks see all frames at once."""
    WHERE: ClassVar[str] = "every"

    @property
    def there(self) -> bool:
        """Whether there are any."""
        return self.every > 0


@spec
class Trunk:
    """A diffusion transformer."""

    kind: Literal["trunk"] = "trunk"
    patch: Annotated[int, Field(ge=1, le=64)] = 2
    """Side of the square patch that becomes one token."""
    bottleneck: Number = 0
    """Features through which patches go on their way in (JiT); 0: none."""
    width: Annotated[int, Field(ge=16)] = 96
    """Features of a token."""
    refine: Number = 0
    """Blocks that text and picture each have for themselves before they meet (Lumina 2, Z-Image)."""
    refine_clock: bool = True
    """The noise level modulates the picture's refining blocks (never the text's)."""
    cross: Number = 0
    """Blocks in which the picture sees itself and then, by cross-attention, a text that stays as it is (PixArt)."""
    read: Number = 0
    """Blocks in which the picture sees itself and a text that stays as it is in one attention (PRX)."""
    double: Number = 0
    """Blocks in which text and picture have their own weights and share the attention (SD3)."""
    single: Number = 0
    """Blocks in which text and picture share weights as well (the later blocks of Flux)."""
    parallel: bool = False
    """In single blocks, attention and feed-forward stand side by side (Flux)."""
    text_ends: bool = False
    """The text of the last double block is only looked at (SD3)."""
    alone: Number = 0
    """So many of the first double blocks have a second attention, of the picture alone (SD3.5)."""
    long_skips: bool = False
    """The first half of the single blocks is joined to the second by long skips (U-ViT)."""
    class_tokens: Number = 0
    """Copies of the pooled text or class that join the single blocks as tokens, instead of the words (JiT)."""
    class_from: Number = 0
    """The single block from which they are there."""
    norm: Literal["layer", "rms"] = "layer"
    """Norm before every sub-layer."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """Epsilon of the norms."""
    norm2_eps: Annotated[float, Field(ge=0)] = 0.0
    """Epsilon of the norm before the feed-forward where it is another (DiT in diffusers: 1e-5); 0: norm_eps."""
    norm_gain: bool = False
    """The norms have a learned gain."""
    sandwich: bool = False
    """RMS norm after every sub-layer as well."""
    attention: AttentionSpec = AttentionSpec()
    feed_forward: FeedForwardSpec = FeedForwardSpec()
    modulation: ModulationSpec = ModulationSpec()
    time: TimeSpec = TimeSpec()
    text: TextSpec = TextSpec()
    positions: Positions = SinCos()
    places: bool = False
    """Tell every patch by learned waves where in the frame it lies."""
    token_shift: bool = False
    """Let each patch see a few features of its four neighbours before every sub-layer."""
    mask: Literal["full", "causal"] = "full"
    """Who sees whom: everyone; or words the words before them, and a frame what comes before it and itself (also along
    time, where there are layers for that)."""
    head: Literal["shift_scale", "scale", "table", "plain"] = "shift_scale"
    """The noise level's part in the last layer: shift and scale, scale alone, both from a table (PixArt), or none."""
    head_norm: Literal["layer", "rms"] = "layer"
    """Norm of the last layer: layer norm, without gain unless the head is plain, or RMS norm with one (JiT)."""
    head_conv: bool = False
    """A last 3x3 convolution over the picture (U-ViT)."""
    head_bias: bool = True
    """Bias of the last map."""
    patch_bias: bool = True
    """Bias of the first map of the patches."""
    learned_sigma: bool = False
    """Twice the channels come out; the second half was trained to be a variance and is not used here (DiT)."""
    magnitude: bool = False
    """EDM2's magnitude-preserving layers in place of norms, biases, shifts and gates."""
    routing: Routing = NoRouting()
    """Patches that go past some of the blocks while training, which saves their work (TREAD, SPRINT, MaskDiT)."""
    temporal: Annotated[Temporal, Short("every")] = Temporal()
    actions: ActionSpec = Untold()
    """How the network is told what led to each frame, of data in which somebody acts (episodes)."""
    outcomes: Number = 0
    """Bins, an odd number such as 63, in which the reward of each frame is foretold, beside whether the world ends with
    it; 0: neither is."""
    image_channels: Number = 0
    """Channels of a picture the network is told, beside those of x."""

    def build(self, channels: int, text_width: int | None, pooled_width: int | None = None,
              acts: Acts | None = None) -> TrunkNet:
        """The network for media of ``channels``, text features of ``text_width``, a pooled text of ``pooled_width`` and
        a world in which one can do ``acts``.

        UserError where the fields contradict each other.
        """
        from fromnoise.nets.trunk.net import TrunkNet
        from fromnoise.nets.trunk.refusals import misfits

        self.check()
        refuse(misfits(self, pooled_width, acts))
        return TrunkNet(self, channels, text_width, pooled_width, acts)

    @property
    def multiple(self) -> int:
        """Media sides must be multiples of this."""
        return self.patch

    @property
    def reads_fps(self) -> bool:
        """Whether the network is told frames a second."""
        return self.time.numbers == "fps"

    @property
    def reads_actions(self) -> bool:
        """Whether the network is told what led to each frame."""
        return not isinstance(self.actions, Untold)

    @property
    def meets(self) -> int:
        """Blocks in which the picture meets the text (all but the refining ones)."""
        return self.cross + self.read + self.double + self.single

    @property
    def told_frames(self) -> int:
        """Frames that each is shown beside it as channels: none, since frames meet in attention."""
        return 0

    @property
    def causal(self) -> bool:
        """Whether no frame sees one to come, so that frames can be cached."""
        return self.mask == "causal" or (self.temporal.there and self.temporal.causal)

    def check(self) -> None:
        """UserError with the reason where the fields contradict each other."""
        from fromnoise.nets.trunk.refusals import contradictions

        refuse(contradictions(self))


def refuse(reasons: Iterable[tuple[Any, str]]) -> None:
    """UserError with the first reason that is so."""
    for wrong, reason in reasons:
        if wrong:
            raise UserError(f"net: {reason}")


__all__ = ["Learned", "NoPositions", "Relative", "Rotary", "SinCos", "Temporal", "TextSpec", "TimeSpec", "Trunk"]

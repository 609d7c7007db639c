"""The U-Net family as one spec: residual convolutions at several scales, attention where it is asked for.

After DDPM (Ho et al. 2020) and ADM (Dhariwal and Nichol 2021), Stable Diffusion (Rombach et al. 2022) and SDXL
(Podell et al. 2023), EDM2 (Karras et al. 2024) and simple diffusion (Hoogeboom et al. 2023), which are presets of it
(``unet_presets``).  The defaults are the small U-Net with words that the built-in recipes train.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fromnoise.blocks.settings import TemporalSpec
from fromnoise.blocks.waves import Fourier, Sinusoid, Time
from fromnoise.config import spec
from fromnoise.nets.trunk.acting import ByModulation, Untold
from fromnoise.nets.trunk.refusals import inactive, without_middle
from fromnoise.nets.trunk.settings import refuse
from fromnoise.nets.unet_net import UNetNet
from fromnoise.types import Acts, UserError


@spec
class TemporalLevels(TemporalSpec):
    """Layers along time behind the attention over places, or behind residual blocks that have none."""

    levels: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Scales that have them, 0 being full resolution, behind every residual block; the last one in the middle too."""
    WHERE: ClassVar[str] = "levels"

    @property
    def there(self) -> bool:
        """Whether there are any."""
        return bool(self.levels)


@spec
class UNet:
    """A convolutional U-Net."""

    kind: Literal["unet"] = "unet"
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 32
    """Channels at full resolution (a multiple of 8)."""
    multipliers: tuple[int, ...] = (1, 2, 2)
    """Channels at each scale, relative to the width; every scale but the last halves the picture."""
    blocks: Annotated[int, Field(ge=1)] = 1
    """Residual blocks a scale."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Heads of every attention layer, unless head_width says otherwise."""
    head_width: Annotated[int, Field(ge=0)] = 0
    """Features of a head, so that wider layers have more heads; 0: there are as many as heads says."""
    attention: Literal["joint", "plain", "spatial"] = "joint"
    """joint: places and words in one sequence; plain: places alone (DDPM, ADM); spatial: Stable Diffusion's blocks of
    self-attention, cross-attention to words and a gated feed-forward layer."""
    depths: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Attention blocks behind each residual block, for every scale; () is none at all."""
    middle: Literal["attention", "residual", "transformer"] = "attention"
    """At the coarsest scale: a residual block and attention; another residual block behind them; or, as in simple
    diffusion, a transformer in place of all residual blocks of that scale."""
    middle_depth: Annotated[int, Field(ge=0)] = 1
    """Attention blocks in the middle; 0 is none."""
    resample: Literal["pool", "project", "conv", "residual"] = "pool"
    """Between scales: averages and repetition; the same with a 1x1 convolution that changes the width (simple
    diffusion); 3x3 convolutions (DDPM, Stable Diffusion); or inside residual blocks (ADM, EDM2)."""
    pad: Literal["both", "end"] = "both"
    """Where a strided convolution pads: on both sides, or at the end alone (DDPM)."""
    skips: Literal["blocks", "all", "add"] = "blocks"
    """What the way up reads of the way down: channels of every residual block; those of the halved pictures too, in
    one more block a scale (DDPM); or every residual block, added instead of set beside (simple diffusion)."""
    modulation: Literal["scale_shift", "add"] = "scale_shift"
    """How time enters a residual block: scales and shifts behind the second norm (ADM), or a sum before it (DDPM)."""
    magnitude: bool = False
    """EDM2's magnitude-preserving layers in place of group norms and biases."""
    groups: Annotated[int, Field(ge=1)] = 8
    """Groups of every group norm; must divide all widths."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-5
    """What group norms add to the variance."""
    time: Time = Sinusoid()
    """How t becomes features."""
    time_ratio: Annotated[int, Field(ge=1)] = 4
    """Width of the features of time, relative to the width."""
    pooled: Literal["mean", "linear", "mlp", "none"] = "mean"
    """What is added to the features of time: the mean of the words; the pooled vector of the condition, through a
    matrix (of one-hot vectors it is a table of classes); that and numbers through two layers (SDXL); or nothing."""
    pooled_width: Annotated[int, Field(ge=0)] = 0
    """Width of the pooled vector, or number of classes; 0 for that which the text gives."""
    numbers: Annotated[int, Field(ge=0)] = 0
    """Numbers beside the pooled vector, such as SDXL's six of size and crop."""
    number_waves: Annotated[int, Field(ge=1)] = 128
    """Sinusoids that each of the numbers becomes."""
    temporal: TemporalLevels = TemporalLevels()
    fps: bool = False
    """Tell the network frames a second (of films; 0 for a single frame), added to the features of time."""
    told_frames: Annotated[int, Field(ge=0)] = 0
    """Frames before each one that it is shown as channels beside it, by which a world goes on frame by frame (DIAMOND);
    in training those of the data, at noise levels up to train.frames.noise; 0 is none."""
    actions: Annotated[Untold | ByModulation, Field(discriminator="kind")] = Untold()
    """Whether the network is told what led to each frame and to the told ones, of data in which somebody acts."""
    outcomes: Annotated[int, Field(ge=0)] = 0
    """Bins, an odd number such as 63, in which the reward of each frame is foretold, beside whether the world ends with
    it; 0: neither is."""
    image_channels: Annotated[int, Field(ge=0)] = 0
    """Channels of the condition's image, set beside those of x: a small picture, a mask, the last estimate of x0."""
    extra_outputs: Annotated[int, Field(ge=0)] = 0
    """Channels put out beyond those of x, such as a learned variance."""

    def build(self, channels: int, text_width: int | None, pooled_width: int | None = None,
              acts: Acts | None = None) -> UNetNet:
        """The network for media of ``channels`` and text features of ``text_width`` (None: no text).

        pooled_width: width of the pooled vectors there will be, where the settings leave it open;  acts: what can be
        done in the world.  UserError where the settings do not fit together.
        """
        told = self.pooled in ("linear", "mlp") and not self.pooled_width and pooled_width
        chosen = replace(self, pooled_width=pooled_width) if told else self
        chosen.check()
        refuse(inactive(chosen, acts))
        return UNetNet(chosen, channels, text_width, acts)

    @property
    def multiple(self) -> int:
        """Media sides must be multiples of this."""
        return 1 if self.resample == "conv" else 2 ** (len(self.multipliers) - 1)

    @property
    def reads_fps(self) -> bool:
        """Whether the network is told frames a second."""
        return self.fps

    @property
    def reads_actions(self) -> bool:
        """Whether the network is told what led to each frame."""
        return not isinstance(self.actions, Untold)

    @property
    def causal(self) -> bool:
        """Whether frames can be made one after the other, of those before alone."""
        return self.told_frames > 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each scale."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def all_depths(self) -> tuple[int, ...]:
        """Attention blocks behind each residual block, for every scale."""
        return self.depths or (0,) * len(self.multipliers)

    def head_count(self, width: int) -> int:
        """Heads of an attention over features of ``width``."""
        return width // self.head_width if self.head_width else self.heads

    def check(self) -> None:
        """UserError, one sentence, for the first thing that cannot be built."""
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError("net.multipliers needs at least one number, each 1 or more.")
        if self.depths and len(self.depths) != len(self.multipliers):
            raise UserError(f"net.depths has {len(self.depths)} numbers and net.multipliers {len(self.multipliers)}: "
                            "both have one for every scale.")
        attending = [w for w, depth in zip(self.widths, self.all_depths, strict=True) if depth]
        attending += [self.widths[-1]] if self.middle_depth else []
        for width in attending:
            if width % (self.head_width or self.heads):
                what = f"net.head_width {self.head_width}" if self.head_width else f"net.heads {self.heads}"
                where = "the coarsest width" if width == self.widths[-1] else "the width"
                raise UserError(f"{what} does not divide {where} {width}.")
        for wrong, sentence in self.conflicts():
            if wrong:
                raise UserError(sentence)

    def conflicts(self) -> list[tuple[bool, str]]:
        """Combinations of settings that mean nothing, each with the reason."""
        odd = [w for w in self.widths if w % self.groups]
        temporal = self.temporal
        timed = [self.widths[level] for level in temporal.levels if level < len(self.widths)]
        heads = [w // self.head_count(w) for w in timed if w % (self.head_width or self.heads) == 0]
        deep = max((*self.all_depths, 0 if self.middle == "transformer" else self.middle_depth))
        transformer, vector = self.middle == "transformer", self.pooled in ("linear", "mlp")
        return [
            (bool(odd) and not self.magnitude,
             f"net.groups {self.groups} does not divide the width {(odd or [0])[0]}."),
            (deep > 1 and self.attention != "spatial",
             f'net.attention "{self.attention}" has one layer a place: net.depths and net.middle_depth are 0 or 1, or '
             'net.attention is "spatial".'),
            (self.middle == "attention" and not self.middle_depth,
             'net.middle "attention" needs net.middle_depth of 1 or more; "residual" works without.'),
            (transformer and not (self.skips == "add" and self.resample == "project" and self.middle_depth
                                  and len(self.multipliers) > 1 and not self.all_depths[-1]),
             'net.middle "transformer" takes the place of the last of two or more scales, which needs net.skips "add", '
             'net.resample "project", a net.middle_depth of 1 or more and no net.depths at that scale.'),
            (self.skips == "add" and self.resample != "project",
             'net.skips "add" sums pictures of one width, so that the width must change between scales: net.resample '
             'is "project" then.'),
            (self.skips == "all" and self.resample == "project",
             'net.skips "all" hands on halved pictures at their old width, but net.resample "project" changes it: take '
             '"blocks" or "add".'),
            (self.pad == "end" and self.resample != "conv",
             'net.pad "end" speaks of strided convolutions, and only net.resample "conv" has them.'),
            (vector and not self.pooled_width,
             f'net.pooled "{self.pooled}" reads a vector of the condition: net.pooled_width says how wide it is.'),
            (bool(self.pooled_width) and not vector,
             f'net.pooled_width is of no use with net.pooled "{self.pooled}": take "linear" or "mlp".'),
            (bool(self.numbers) and self.pooled != "mlp", 'net.numbers go through net.pooled "mlp".'),
            (len(timed) < len(temporal.levels),
             f"net.temporal.levels {list(temporal.levels)} names a scale that is not there: there are "
             f"0 to {len(self.widths) - 1}."),
            (len(heads) < len(timed), "the heads of net.temporal are those of the other attention (net.heads, "
                                      "net.head_width), and these do not divide the widths of net.temporal.levels."),
            (any(head % 2 for head in heads) and not temporal.reach,
             "rotary positions of frames turn pairs of features, and a head has an odd number: choose another "
             "net.head_width or net.heads, or set net.temporal.reach."),
            (bool(timed) and temporal.kernel > 0 and temporal.kernel % 2 == 0 and not temporal.causal,
             f"net.temporal.kernel {temporal.kernel} has no middle: take an odd number."),
            (self.magnitude and bool(timed),
             "net.magnitude has no magnitude-preserving form of net.temporal here: leave that out."),
            (bool(timed) and self.told_frames > 0,
             "net.told_frames and net.temporal both bring frames together: choose one of them."),
            (self.magnitude and (self.told_frames > 0 or self.reads_actions),
             "net.magnitude has no magnitude-preserving form of net.told_frames and net.actions here: leave them out."),
            without_middle(self),
            (self.fps and self.magnitude, "net.fps has no magnitude-preserving form here: leave net.magnitude out."),
            (self.magnitude and not (self.attention == "plain" and self.resample == "residual" and self.skips == "all"
                                     and self.middle == "residual" and self.modulation == "scale_shift"
                                     and self.pooled != "mlp" and isinstance(self.time, Fourier)),
             'net.magnitude is worked out for EDM2\'s U-Net alone: net.attention "plain", resample "residual", skips '
             '"all", middle "residual", modulation "scale_shift", time "fourier" and a pooled that is not "mlp".'),
        ]

"""What a transformer block is made of, as specs: attention, feed-forward and modulation; and layers along time.

Together with the trunk's own fields they are the choices in which published diffusion transformers differ.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fromnoise.config import spec

Count = Annotated[int, Field(ge=1)]


@spec
class AttentionSpec:
    """How tokens look at each other."""

    heads: Count = 4
    """Heads of the queries; must divide the width."""
    kv_heads: Annotated[int, Field(ge=0)] = 0
    """Heads of keys and values, each shared by several of the queries' (grouped queries); 0: as many as heads."""
    qk_norm: Literal["none", "rms", "layer", "rms_across"] = "rms"
    """Norm of queries and keys: RMS or layer norm of every head, or RMS over all heads at once."""
    eps: Annotated[float, Field(gt=0)] = 1e-6
    """Epsilon of that norm."""
    bias: bool = False
    """Bias of the maps to queries, keys and values."""
    out_bias: bool = False
    """Bias of the map back."""
    gate: bool = False
    """Scale what every head says by a sigmoid of the token that asked."""
    kind: Literal["softmax", "linear"] = "softmax"
    """Softmax attention, or linear attention with ReLU features (Sana), whose cost grows with N and not N^2."""
    cross_heads: Annotated[int, Field(ge=0)] = 0
    """Heads of cross-attention to the text; 0: as many as heads."""
    base_dim: Annotated[int, Field(ge=0)] = 0
    """Size of a head d at which logits are divided by its root; others divide by d / sqrt(base_dim), as muP wants of
    heads that grow with the width.  0: always by the root."""

    def logit_scale(self, d: int) -> float:
        """Factor on the logits of heads of ``d`` features, beside 1 / sqrt(d)."""
        return (self.base_dim / d) ** 0.5 if self.base_dim else 1.0


@spec
class FeedForwardSpec:
    """What a token does by itself."""

    ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden features, relative to the width."""
    multiple_of: Count = 1
    """Hidden features are rounded up to a multiple of this."""
    activation: Literal["gelu", "gelu_tanh", "silu", "relu2"] = "gelu_tanh"
    """GELU, its tanh form, SiLU or squared ReLU."""
    gated: bool = False
    """Multiply the activation by a second linear map (GLU; with silu it is SwiGLU)."""
    bias: bool = False
    """Biases of the linear maps."""
    conv: bool = False
    """A depthwise 3x3 convolution between the two maps, over the picture (Sana's mix-FFN); needs gated."""

    def hidden(self, width: int) -> int:
        """Hidden features at a width."""
        return -(-int(width * self.ratio + 1e-6) // self.multiple_of) * self.multiple_of


@spec
class ModulationSpec:
    """How the noise level (and the pooled text) enters the blocks."""

    source: Literal["block", "table", "shared", "none"] = "block"
    """Each block has its own linear map (adaLN), or one map and a table for each block (adaLN-single, PixArt), or one
    map for all blocks of a kind (Flux 2); none: the noise level is a token among the others."""
    shift: bool = True
    """Shift as well as scale."""
    tanh_gate: bool = False
    """Gates go through tanh."""
    silu: bool = True
    """A SiLU before the map."""
    bias: bool = True
    """Bias of the map."""

    def parts(self, sublayers: int) -> int:
        """Vectors for so many sub-layers: (shift,) scale and gate of each."""
        return 0 if self.source == "none" else sublayers * (3 if self.shift else 2)


@spec
class TemporalSpec:
    """What a layer along time is made of, in which every place of the picture sees itself in the other frames."""

    causal: bool = False
    """A frame sees itself and those before it alone."""
    reach: Annotated[int, Field(ge=0)] = 0
    """A learned bias for every distance of frames up to this takes the place of rotary positions (Video Diffusion
    Models); 0: rotary."""
    theta: Annotated[float, Field(gt=1)] = 100.0
    """The slowest turn of the rotary positions is about 1 / theta a frame."""
    kernel: Annotated[int, Field(ge=0)] = 0
    """Frames that a convolution along time spans, before the attention (Make-A-Video); 0: there is none."""
    ratio: Annotated[float, Field(ge=0)] = 0.0
    """Hidden features of a feed-forward layer behind the attention, relative to the width; 0: there is none."""

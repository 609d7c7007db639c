"""Which settings of a trunk contradict each other, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fromnoise.nets.trunk.acting import ByModulation, ByToken
from fromnoise.nets.trunk.routing import NoRouting, Tread
from fromnoise.nets.trunk.settings import Learned, Relative, Rotary, SinCos, Trunk
from fromnoise.types import Acts

Reason = tuple[Any, str]  # whether it is so, and what then is said


def misfits(spec: Trunk, pooled_width: int | None, acts: Acts | None) -> Iterator[Reason]:
    """(whether it is so, why it cannot be) for a pooled text of ``pooled_width`` and a world of ``acts``."""
    yield from inactive(spec, acts)
    width = spec.time.width or spec.width
    yield spec.time.pooled == "add" and pooled_width not in (None, width), (
        f"the pooled text has {pooled_width} features and is added to {width}: set net.time.pooled to \"linear\" "
        'or "mlp".')
    yield spec.class_tokens and pooled_width is None, (
        "net.class_tokens are made from a pooled text or class, and there is none.")


def inactive(spec: Any, acts: Acts | None) -> Iterator[Reason]:
    """(whether it is so, why it cannot be) for a network of any kind and data in which nobody may act."""
    yield spec.reads_actions and acts is None, (
        "net.actions tells what was done, and these data are no episodes, in which something is done: leave it out.")
    yield spec.outcomes and acts is None, (
        "net.outcomes foretells rewards and ends, and these data are no episodes, which have some: leave it out.")


def without_middle(spec: Any) -> Reason:
    """(whether it is so, why rewards cannot be foretold in so many bins) for a network of any kind."""
    return spec.outcomes and (spec.outcomes < 3 or spec.outcomes % 2 == 0), (
        f"net.outcomes {spec.outcomes} has no bin for a reward of 0 in its middle: take an odd number from 3 on.")


def contradictions(spec: Trunk) -> Iterator[Reason]:
    """(whether it is so, why it cannot be)."""
    a, heads, p = spec.attention, spec.attention.heads, spec.positions
    size = spec.width // heads
    yield spec.meets == 0, "there is no block: set net.single, net.double, net.cross or net.read."
    yield bool(spec.width % heads), f"net.width {spec.width} is not a multiple of net.attention.heads {heads}."
    yield a.kv_heads and heads % a.kv_heads, (
        f"net.attention.heads {heads} is not a multiple of net.attention.kv_heads {a.kv_heads}.")
    yield a.cross_heads and spec.width % a.cross_heads, (
        f"net.width {spec.width} is not a multiple of net.attention.cross_heads {a.cross_heads}.")
    yield isinstance(p, Rotary) and not p.axes and (size % 2 or size < 6), (
        f"rotary positions turn pairs of features, one at least for frame, row and column, and a head has {size}: "
        "choose another net.width or net.attention.heads.")
    yield isinstance(p, Rotary) and p.axes and sum(p.axes) != size, (
        f"net.positions.axes {list(getattr(p, 'axes', []))} must add up to the size of a head, {size}.")
    yield isinstance(p, Rotary) and p.axes and not 2 <= len(p.axes) <= 4, "net.positions.axes needs two to four axes."
    yield isinstance(p, Rotary) and p.words == "last" and len(p.axes) < 4, (
        'words can only stand along the last axis (net.positions.words "last") where there is a fourth.')
    yield (isinstance(p, SinCos) or (isinstance(p, Rotary) and p.sincos)) and spec.width % 4, (
        "sincos positions need a net.width that is a multiple of 4.")
    yield spec.feed_forward.hidden(spec.width) < 1, (
        f"net.feed_forward.ratio {spec.feed_forward.ratio} leaves no hidden features at net.width {spec.width}.")
    yield spec.read and spec.double, "net.read keeps the text as it is and net.double changes it: choose one."
    yield spec.cross and (spec.read or spec.double or spec.single), (
        "net.cross has the text outside the sequence of tokens; it goes with no other kind of block.")
    yield spec.read and spec.single, "net.read keeps the text out of the sequence that net.single needs."
    yield spec.alone > spec.double, f"net.alone {spec.alone} is more than the {spec.double} double blocks."
    yield spec.text_ends and spec.single, "net.text_ends drops the text that the single blocks need."
    yield spec.text_ends and not spec.double, "net.text_ends speaks of the last double block; there is none."
    yield spec.parallel and not spec.single, "net.parallel speaks of single blocks; there are none."
    yield spec.long_skips and spec.single < 3, "net.long_skips needs at least three single blocks."
    yield spec.long_skips and (spec.double or spec.cross or spec.read), "net.long_skips needs single blocks alone."
    yield spec.class_tokens and (not spec.single or spec.double or spec.cross or spec.read), (
        "net.class_tokens joins single blocks; it goes with no other kind of block.")
    yield spec.class_tokens and spec.class_from >= spec.single, (
        f"net.class_from {spec.class_from} must be less than net.single {spec.single}.")
    yield spec.class_tokens and spec.long_skips, "net.class_tokens and net.long_skips do not go together."
    yield spec.class_tokens and spec.modulation.source == "none", (
        "net.class_tokens take the place of the words, and the noise level is one of them here.")
    yield a.kind == "linear" and spec.mask == "causal", "linear attention cannot have a causal mask here."
    yield a.kind == "linear" and (spec.double or spec.single), (
        "linear attention here is the picture's own: use net.cross.")
    yield a.kind == "linear" and a.base_dim, "linear attention has no logits for net.attention.base_dim to scale."
    yield a.kind == "linear" and isinstance(p, Relative), "linear attention has no logits to add a bias to."
    yield spec.feed_forward.conv and not (spec.cross or spec.read), (
        "net.feed_forward.conv works on pictures without words among their tokens: use net.cross or net.read.")
    f = spec.feed_forward
    yield f.conv and not (f.gated and f.bias and f.activation == "silu"), (
        "net.feed_forward.conv is built gated, with silu and with biases alone.")
    yield spec.mask == "causal" and not spec.text.clean, (
        'net.mask "causal" is for text that is told t = 0: set net.text.clean.')
    yield spec.mask == "causal" and (spec.cross or spec.read), 'net.mask "causal" needs net.double or net.single.'
    yield spec.modulation.source == "none" and spec.head in ("shift_scale", "scale", "table"), (
        'without modulation nothing shifts or scales the last layer: set net.head to "plain".')
    yield spec.modulation.source != "table" and spec.head == "table", (
        'net.head "table" goes with net.modulation.source "table".')
    yield spec.modulation.source == "none" and isinstance(p, Rotary), (
        "the noise level is a token here, and rotary positions have no place for it.")
    yield spec.modulation.source == "table" and bool(spec.double or spec.read), (
        "one map and a table for each block is built for net.cross and net.single.")
    yield spec.text.pad_to and not (isinstance(p, Rotary) and p.words == "first"), (
        'net.text.pad_to is built for rotary positions with words along the "first" axis.')
    yield spec.text.pad_to and not spec.single, "net.text.pad_to needs net.single."
    yield spec.modulation.source == "none" and spec.time.width not in (0, spec.width), (
        "the noise level is a token here, and net.time.width must be that of a token.")
    yield not spec.time.network and spec.time.waves != (spec.time.width or spec.width), (
        f"without its network the noise level needs as many net.time.waves as features, "
        f"{spec.time.width or spec.width}.")
    yield spec.mask == "causal" and spec.text_ends, (
        'net.text_ends leaves no text for a causal cache: set net.mask "full" or net.text_ends off.')
    yield spec.mask == "causal" and spec.modulation.source == "none", (
        'the noise level is a word here, which words would see: net.mask must be "full".')
    yield spec.mask == "causal" and spec.alone, "net.alone knows no mask, and frames would see those to come."
    yield spec.mask == "causal" and spec.text.pad_to, "net.text.pad_to adds tokens to a picture that no frame owns."
    yield spec.mask == "causal" and spec.class_tokens, (
        "net.class_tokens stand where a causal mask expects words: choose one.")
    yield from along_time(spec)
    yield from acting(spec)
    yield from routed(spec)
    yield from magnitudes(spec)
    yield spec.learned_sigma and spec.head_conv, "net.learned_sigma and net.head_conv do not go together."


def along_time(spec: Trunk) -> Iterator[Reason]:
    """(whether it is so, why frames cannot meet in layers of their own)."""
    p, every = spec.temporal, spec.temporal.every
    if not every:
        return
    yield every > spec.meets, f"net.temporal.every {every} is more than the {spec.meets} blocks."
    yield not p.reach and spec.width // spec.attention.heads % 2, (
        "rotary positions of frames turn pairs of features, and a head has an odd number: choose another net.width or "
        "net.attention.heads, or set net.temporal.reach.")
    yield p.kernel % 2 == 0 and p.kernel and not spec.causal, (
        f"net.temporal.kernel {p.kernel} has no middle: take an odd number.")
    yield not isinstance(spec.routing, NoRouting), (
        "net.routing leaves other patches in every frame, and time runs at each place: choose it or net.temporal.")
    yield spec.magnitude, "net.magnitude has no magnitude-preserving form of net.temporal here: leave that out."


def acting(spec: Trunk) -> Iterator[Reason]:
    """(whether it is so, why actions cannot be told so)."""
    yield without_middle(spec)
    token, together = isinstance(spec.actions, ByToken), not spec.temporal.every  # all frames in one sequence
    yield spec.reads_actions and spec.magnitude, "net.magnitude has no magnitude-preserving form of net.actions here."
    yield isinstance(spec.actions, ByModulation) and spec.modulation.source == "none", (
        'without modulation no noise level can bring an action along: set net.actions to "token".')
    yield token and spec.text.pad_to, "net.text.pad_to and net.actions token both add to the picture: choose one."
    yield token and spec.feed_forward.conv, "net.feed_forward.conv works on pictures without actions among them."
    yield token and not isinstance(spec.routing, NoRouting), (
        "net.routing counts patches, and net.actions token puts a token between them: choose modulation.")
    yield token and together and isinstance(spec.positions, Relative | Learned), (
        f"{spec.positions.kind} positions have no place for the actions of frames that share a sequence: set "
        "net.actions to modulation, net.temporal, or other positions.")
    yield token and together and spec.token_shift, (
        "net.token_shift counts patches, and net.actions token puts a token before those of each frame: choose one, or "
        "set net.temporal.")


def unpackable(spec: Trunk) -> Iterator[Reason]:
    """(whether it is so, why several clips cannot be one sequence)."""
    yield spec.temporal.every, (
        "net.temporal makes every frame a sequence of its own, and clips of one size share a batch: there is nothing "
        "to pack.")
    yield not isinstance(spec.routing, NoRouting), "net.routing leaves out patches of one clip: packed ones take none."
    yield spec.class_tokens, "net.class_tokens join one sequence in its middle, and a packed one has several clips."
    yield spec.alone, "net.alone knows no mask, and packed clips would see each other."
    yield spec.feed_forward.conv, "net.feed_forward.conv sees the neighbours of one picture, not of packed ones."


def routed(spec: Trunk) -> Iterator[Reason]:
    """(whether it is so, why tokens cannot be routed so)."""
    if isinstance(spec.routing, NoRouting):
        return
    start, stop = spec.routing.span(spec.meets)
    yield not 0 <= start < stop <= spec.meets, (
        f"net.routing goes past the blocks {start} to {stop - 1}, and there are 0 to {spec.meets - 1}: give it a "
        "stretch of these.")
    before = spec.class_from if spec.class_tokens else 0
    ends = (spec.cross + spec.read + spec.double, spec.cross + spec.read + spec.double + before)
    yield any(start < end < stop for end in ends), (
        "net.routing must begin and end among blocks of one kind, where tokens are in the same sequences.")
    yield spec.token_shift, "net.routing leaves patches without the neighbours that net.token_shift lets them see."
    yield spec.feed_forward.conv, "net.routing leaves patches without the neighbours of net.feed_forward.conv."
    yield spec.long_skips, "net.routing and net.long_skips both lead past blocks: choose one."


def magnitudes(spec: Trunk) -> Iterator[Reason]:
    """(whether it is so, why EDM2's layers cannot be had with it)."""
    if not spec.magnitude:
        return
    a, f = spec.attention, spec.feed_forward
    unbuilt = {
        "net.cross": spec.cross, "net.parallel": spec.parallel, "net.alone": spec.alone, "net.sandwich": spec.sandwich,
        "net.long_skips": spec.long_skips, "net.class_tokens": spec.class_tokens, "net.head_conv": spec.head_conv,
        "net.bottleneck": spec.bottleneck, "net.text.pad_to": spec.text.pad_to, "net.feed_forward.gated": f.gated,
        "net.attention.kv_heads": a.kv_heads, "net.attention.gate": a.gate, "net.attention.base_dim": a.base_dim,
    }
    for field, there in unbuilt.items():
        yield bool(there), f"net.magnitude has no magnitude-preserving form of {field} here: leave that out."
    yield spec.modulation.source != "block", 'net.magnitude is built for net.modulation.source "block" alone.'
    yield spec.time.numbers != "none" or not spec.time.network, (
        'net.magnitude is built for net.time.network and net.time.numbers "none" alone.')
    yield isinstance(spec.positions, Learned), (
        "net.magnitude has no learned positions, which may have any magnitude: choose another kind.")
    yield spec.places or spec.token_shift, (
        "net.places and net.token_shift change the magnitude of some tokens and not of others: leave them out, or "
        "net.magnitude.")
    yield not isinstance(spec.routing, NoRouting | Tread), (
        'net.magnitude goes with net.routing "tread", whose tokens come back at the magnitude they had.')

"""The ring: a frame sees the first frames and the newest ones as if they were all there was, however many came before.

The slow twin is one forward over all frames in which each query gathers the frames that are held at its time, turned or
biased by their ranks among these.  What is gathered has passed the layers below with the history of its own time.
"""

from dataclasses import replace
from functools import partialmethod

import pytest
import torch

from fromnoise.blocks import (
    AttentionSpec,
    Cache,
    JointBlock,
    Ring,
    TemporalLayer,
    attend_heads,
    coordinates,
    turn,
    turns,
)
from fromnoise.nets.trunk import NoPositions, Relative, Rotary, SinCos, TextSpec, Trunk
from fromnoise.nets.trunk.inputs import Places
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.types import Condition, UserError

B, L, T, C, SIDE, GRID = 2, 3, 9, 3, (4, 6), (2, 3)
BASE = Trunk(width=48, single=2, mask="causal", text=TextSpec(clean=True), attention=AttentionSpec(heads=2),
             positions=Rotary(axes=(8, 8, 8), words="before"))
FACTORISED = replace(BASE, mask="full", positions=SinCos(), temporal=Temporal(every=1, causal=True))
SPECS = {
    "all tokens": BASE,
    "words apart, then together": replace(BASE, double=1, single=1),
    "words first": replace(BASE, positions=replace(BASE.positions, words="first")),
    "words nowhere": replace(BASE, double=2, single=0, positions=replace(BASE.positions, words="none")),
    "rows and columns alone": replace(BASE, positions=Rotary(axes=(12, 12))),
    "learned offsets": replace(BASE, positions=Relative(reach=2)),
    "nowhere": replace(BASE, positions=NoPositions(), attention=AttentionSpec(heads=2, kv_heads=1)),
    "factorised": FACTORISED,
    "factorised, learned offsets": replace(FACTORISED, temporal=Temporal(every=1, causal=True, reach=2)),
    "factorised, convolved": replace(FACTORISED, temporal=Temporal(every=2, causal=True, kernel=3, ratio=2.0)),
    "factorised, convolved far": replace(FACTORISED, temporal=Temporal(every=1, causal=True, kernel=6)),
}
HELD = [(3, 0), (2, 2), (4, 1), (1, 0), (0, 1)]  # limit and sink


def network(spec, dtype):
    torch.manual_seed(0)
    net = spec.build(C, 16)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net.to(dtype)


def inputs(dtype, rows=B):
    torch.manual_seed(1)
    real = torch.tensor([[2]] * (rows - 1) + [[L]])
    told = Condition(text=torch.randn(rows, L, 16, dtype=dtype), mask=torch.arange(L) < real)
    return torch.randn(rows, T, C, *SIDE, dtype=dtype), torch.rand(rows, T, dtype=dtype), told


def held_at(frame, limit, sink):
    """The frames that frame ``frame`` sees, itself the last."""
    return sorted({*range(min(sink, frame)), *range(max(0, frame - limit), frame), frame})


@pytest.fixture
def slow(monkeypatch):
    """``slow(net, x, t, told, limit, sink)``: the twin, in place of the network's attentions."""

    def run(net, x, t, told, limit, sink):
        seen = [held_at(f, limit, sink) for f in range(T)]
        with monkeypatch.context() as patch:
            if net.temporal:
                patch.setattr(TemporalLayer, "attended", partialmethod(attended_along, seen))
                patch.setattr(TemporalLayer, "convolved", partialmethod(convolved_along, seen))
            else:
                patch.setattr(Places, "turns", lambda *_: (None, None))
                patch.setattr(JointBlock, "among", partialmethod(attended_among, seen, net.places, told))
            return net(x, t, told)

    return run


def attended_along(layer, seen, h, frames):
    """Each place of each frame asks the same place of those that frame sees."""
    B, _, N, _ = h.shape
    h = h.transpose(1, 2).flatten(0, 1)
    q, k, v = layer.heads.ask(h, None)
    said = []
    for f, see in enumerate(seen):
        q_f, k_f, bias, ranks = q[:, f : f + 1], k[:, see], None, torch.arange(len(see))[:, None]
        if layer.bias is None:
            by = turns(ranks, (layer.heads.dim,), layer.spec.theta, torch.float64)
            q_f, k_f = turn(q_f, by[-1:]), turn(k_f, by)
        else:
            bias = layer.bias(ranks)[None, :, -1:]
        said.append(attend_heads(q_f, k_f, v[:, see], bias))
    return layer.heads.answer(torch.cat(said, dim=1), h).unflatten(0, (B, N)).transpose(1, 2)


def convolved_along(layer, seen, h, conv, frames):
    """The last of what each frame sees, times the weights of their distance."""
    size = layer.spec.kernel
    return torch.stack([conv.bias + sum(torch.einsum("bnd,ed->bne", h[:, f], conv.weight[:, :, size - 1 - back, 0])
                                        for back, f in enumerate(reversed(see[-size:]))) for see in seen], dim=1)


def attended_among(block, seen, places, told, asked, around):
    """Words ask the words before them; the patches of each frame ask the words and those of the frames it sees, all as
    they stand in a clip of these frames."""
    q, k, v = (torch.cat(parts, dim=1) for parts in zip(*asked, strict=True))
    size, order = GRID[0] * GRID[1], torch.arange(L)
    words = [turned(places.spec.positions, part[:, :L], told, 0) for part in (q, k)]
    said = [attend_heads(*words, v[:, :L], told.mask[:, None, None] & (order[:, None] >= order))]
    for see in seen:
        at = [*range(L), *(L + size * f + i for f in see for i in range(size))]
        q_f, k_f = (turned(places.spec.positions, part[:, at], told, len(see)) for part in (q, k))
        mask = torch.cat([told.mask, told.mask.new_ones(len(q), len(see) * size)], dim=1)[:, None, None]
        bias = places.bias((len(see), *GRID), L)
        mask = mask if bias is None else bias[:, :, -size:].masked_fill(~mask, -torch.inf)
        said.append(attend_heads(q_f[:, -size:], k_f, v[:, at], mask))
    return torch.cat(said, dim=1)


def turned(positions, x, told, frames):
    """Words and patches turned to their places in a clip of so many frames."""
    if not isinstance(positions, Rotary):
        return x
    lengths = told.mask.sum(1) if positions.words == "first" else None
    parts = coordinates((frames, *GRID), L, len(positions.axes), positions.words, lengths=lengths)
    words, picture = (turns(part, positions.axes, positions.theta, torch.float64) for part in parts)
    words = torch.ones_like(words) if positions.words == "none" else words
    return turn(x, torch.cat([words.expand(len(x), -1, -1), picture.expand(len(x), -1, -1)], dim=1))


def near(a, b, dtype):
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= (1e-10 if dtype == torch.float64 else 1e-4) * float(b.abs().max())


def rolled(net, x, t, told, ring, disturb=True):
    """Frame by frame: looked at twice as something else, then as it is, and kept."""
    said = []
    for i in range(x.shape[1]):
        now = x[:, i : i + 1], t[:, i : i + 1], told
        if disturb:
            for other in (torch.ones_like(now[0]), -now[0]):
                net(other, now[1], told, cache=ring)
        said.append(net(*now, cache=ring))
        ring.advance()
    return torch.cat(said, dim=1)


# ---- what it sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "sink"), HELD)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_frames_see_what_is_held_as_if_it_were_all_there_was(slow, name, dtype, limit, sink):
    net, (x, t, told) = network(SPECS[name], dtype), inputs(dtype)
    near(rolled(net, x, t, told, Ring(B, limit, sink)), slow(net, x, t, told, limit, sink), dtype)


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_while_nothing_is_dropped_it_is_the_masked_forward_and_the_growing_cache(name):
    net, (x, t, told) = network(SPECS[name], torch.float64), inputs(torch.float64)
    said, cache = rolled(net, x, t, told, Ring(B, T - 1)), Cache()
    near(said, net(x, t, told), torch.float64)
    grown = [net(x[:, i : i + 1], t[:, i : i + 1], told, cache=cache) for i in range(T)]
    near(said, torch.cat(grown, dim=1), torch.float64)
    dropped = rolled(net, x, t, told, Ring(B, 2))
    assert float((dropped[:, 4:] - said[:, 4:]).abs().max()) > 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["all tokens", "factorised"])
@torch.no_grad()
def test_the_ten_thousandth_frame_is_as_the_tenth(name, dtype):
    spec = replace(SPECS[name], single=1)  # in one layer keys are of their own frame alone, whatever came before
    net, (x, t, _) = network(spec, dtype), inputs(dtype)
    early, late = (rolled(net, x, t, Condition(), Ring(B, 3, ages=[first] * B)) for first in (0, 9_990))
    near(late[:, 4:], early[:, 4:], dtype)
    assert float((late[:, :3] - early[:, :3]).abs().max()) > 1e-3  # where the late one sees slots that nothing was in


# ---- rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@torch.no_grad()
def test_rows_at_different_frames_are_as_rows_alone(name):
    net, (x, t, told) = network(SPECS[name], torch.float64), inputs(torch.float64, rows=3)
    limit, sink, starts = 3, 1, (0, 2, 6)

    def alone(row, start, stop, ring):
        return rolled(net, x[row : row + 1, start:stop], t[row : row + 1, start:stop],
                      told.map(lambda part: part[row : row + 1]), ring)

    rings = [Ring(1, limit, sink) for _ in starts]
    whole = Ring(3, limit, sink)
    rolled(net, x[:, :1], t[:, :1], told, whole)
    for row, start in enumerate(starts):
        if start:
            alone(row, 0, start, rings[row])
        else:
            net(x[row : row + 1, :1], t[row : row + 1, :1], told.map(lambda part, r=row: part[r : r + 1]),
                cache=rings[row])  # the words alone are seen
        whole.put(row, rings[row])
    assert whole.ages == list(starts)
    assert whole.passed == starts
    for step in range(3):
        at = [start + step for start in starts]
        now = torch.stack([x[row, i] for row, i in enumerate(at)])[:, None]
        clocks = torch.stack([t[row, i] for row, i in enumerate(at)])[:, None]
        said = net(now, clocks, told, cache=whole)
        whole.advance()
        near(said, torch.cat([alone(row, i, i + 1, rings[row]) for row, i in enumerate(at)]), torch.float64)


# ---- buffers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all tokens", "factorised, convolved"])
@torch.no_grad()
def test_buffers_stay_where_they_are_and_copies_go_their_own_way(name):
    net, (x, t, told) = network(SPECS[name], torch.float32), inputs(torch.float32)
    ring = Ring(B, 2, 1)
    rolled(net, x[:, :1], t[:, :1], told, ring)
    places = [(part.k.data_ptr(), part.k.shape) for part in ring.held.values()]
    rolled(net, x[:, 1:7], t[:, 1:7], told, ring)
    assert places == [(part.k.data_ptr(), part.k.shape) for part in ring.held.values()]
    branch = ring.copy()
    rolled(net, x[:, 2:5].flip(1), t[:, 2:5], told, branch)
    other = ring.take([1, 0]).take([1, 0])
    rest = [rolled(net, x[:, 7:], t[:, 7:], told, some) for some in (ring, other)]
    assert torch.equal(*rest)
    assert branch.passed == 10


@torch.no_grad()
def test_what_does_not_fit_is_refused():
    net, (x, t, told) = network(SPECS["factorised"], torch.float64), inputs(torch.float64)
    ring = Ring(B, 3)
    net(x[:, :1], t[:, :1], told, cache=ring)
    with pytest.raises(ValueError, match=r"one frame at a time \(got 2\)"):
        net(x[:, :2], t[:, :2], told, cache=ring)
    with pytest.raises(UserError, match="frames of one size"):
        net(x[:, :1, :, :2], t[:, :1], told, cache=ring)
    with pytest.raises(UserError, match="Only a causal network"):
        network(replace(BASE, mask="full"), torch.float64)(x[:, :1], t[:, :1], told, cache=Ring(B, 3))

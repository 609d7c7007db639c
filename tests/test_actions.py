"""Actions: how networks are told what led to each frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fromnoise.blocks import AttentionSpec, Cache
from fromnoise.nets import Trunk, house
from fromnoise.nets.trunk import Rotary, TextSpec
from fromnoise.nets.trunk.acting import ActionIn, ByModulation, ByToken
from fromnoise.nets.trunk.outcomes import Outcome, bins_of, two_hot
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.types import Acts, Condition, UserError

CHOICES = Acts(choices=3)
FRAMEWISE = house(width=32, heads=2, depth=2, patch=4)
FRAMEWISE = replace(FRAMEWISE, temporal=Temporal(every=1, causal=True))
TOGETHER = Trunk(patch=4, width=32, single=2, attention=AttentionSpec(heads=2), positions=Rotary(),
                 text=TextSpec(clean=True), mask="causal")
KINDS = {"modulation": ByModulation(), "token": ByToken()}


def built(spec, actions, acts=CHOICES, text=8):
    """A network of random weights that is told actions."""
    net = replace(spec, actions=KINDS[actions]).build(3, text, None, acts)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (p.shape[-1] ** -0.5 if p.ndim > 1 else 0.3))
    return net.double()


def asked(actions, B=2, T=4, text=8, seed=0):
    """(x, t, condition) of B clips of 8x8 pixels."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, 3, 8, 8, generator=g, dtype=torch.float64)
    t = torch.rand(B, T, generator=g, dtype=torch.float64)
    words = torch.randn(B, 3, text, generator=g, dtype=torch.float64)
    return x, t, Condition(text=words, mask=torch.ones(B, 3, dtype=torch.bool), actions=actions)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [FRAMEWISE, TOGETHER], ids=["framewise", "together"])
def test_an_action_reaches_its_frame_and_later_ones_alone(spec, kind):
    net, first = built(spec, kind), torch.tensor([[-1, 0, 1, 2], [2, 2, 0, 0]])
    other = first.clone()
    other[:, 2] = torch.tensor([0, 1])
    x, t, told = asked(first)
    one, two = net(x, t, told), net(x, t, replace(told, actions=other))
    assert torch.equal(one[:, :2], two[:, :2])
    change = (one - two).abs().amax((0, 2, 3, 4))
    assert (change[2:] > 1e-3).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spec", [FRAMEWISE, TOGETHER], ids=["framewise", "together"])
def test_no_gradient_leads_from_an_action_to_an_earlier_frame(spec, kind):
    net = built(spec, kind, Acts(low=(-2.0, 0.0), high=(2.0, 1.0)))
    actions = torch.rand(1, 4, 2, dtype=torch.float64, requires_grad=True)
    x, t, told = asked(actions, B=1)
    for frame in range(4):
        grad, = torch.autograd.grad(net(x, t, told)[:, frame].square().sum(), actions)
        heard = grad.abs().sum((0, 2))
        assert (heard[: frame + 1] > 0).all()
        assert (heard[frame + 1 :] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_one_by_one_with_a_cache_are_frames_at_once(kind):
    """The streaming twin: each frame is looked at once, clean, with what led to it."""
    for spec in (FRAMEWISE, TOGETHER):
        net, actions = built(spec, kind), torch.tensor([[-1, 0, 1, 2], [2, 2, 0, 0]])
        x, t, told = asked(actions)
        whole, cache = net(x, t, told), Cache()
        parts = [net(x[:, i : i + 1], t[:, i : i + 1], replace(told, actions=actions[:, i : i + 1]), cache=cache)
                 for i in range(4)]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_told_is_as_no_actions_at_all(kind):
    for spec in (FRAMEWISE, TOGETHER):
        net = built(spec, kind)
        x, t, told = asked(torch.full((2, 4), -1))
        torch.testing.assert_close(net(x, t, told), net(x, t, replace(told, actions=None)), rtol=0, atol=1e-12)


def test_choices_switches_and_numbers_are_told_apart():
    choices, switches = ActionIn(CHOICES, 8), ActionIn(Acts(switches=2), 8)
    told = choices(torch.tensor([[-1, 0, 1, 2]]), torch.float32)
    assert bool((told[0, 0] == 0).all())
    assert len(torch.unique(told[0], dim=0)) == 4
    nan = float("nan")
    told = switches(torch.tensor([[[nan, nan], [0, 0], [0, 1], [1, 0], [1, 1]]]), torch.float32)
    assert bool((told[0, 0] == 0).all())
    assert len(torch.unique(told[0], dim=0)) == 5
    numbers = ActionIn(Acts(low=(-2.0, 0.0), high=(2.0, 10.0)), 8)
    entries = numbers.entries(torch.tensor([[[-2.0, 10.0], [2.0, 5.0], [0.0, 0.0]]]))
    torch.testing.assert_close(entries[0], torch.tensor([[-1.0, 1.0], [1.0, 0.0], [0.0, -1.0]]))
    told = numbers(torch.tensor([[[nan, 1.0], [0.0, 5.0]]]), torch.float32)
    assert bool((told[0, 0] == 0).all())
    assert bool((told[0, 1] != 0).any())


def test_a_network_that_is_told_no_actions_has_the_weights_it_had():
    """Old recipes keep their initial weights, and the new weights come after all others."""
    for spec in (FRAMEWISE, TOGETHER):
        nets = []
        for actions in (spec.actions, ByModulation(), ByToken()):
            torch.manual_seed(0)
            nets.append(replace(spec, actions=actions).build(3, 8, None, CHOICES))
        plain, *others = [dict(net.named_parameters()) for net in nets]
        for other in others:
            assert set(plain) < set(other)
            assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(UserError, match="these data are no episodes"):
        replace(FRAMEWISE, actions=ByModulation()).build(3, 8)
    with pytest.raises(UserError, match="relative positions have no place"):
        replace(house(), actions=ByToken()).build(3, 8, None, CHOICES)
    net = built(FRAMEWISE, "modulation")
    x, t, told = asked(torch.zeros(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="go with 2 clips of 4 frames"):
        net(x, t, told)


def test_silence():
    where = torch.tensor([[True, False]])
    assert CHOICES.silence(torch.tensor([[2, 1]]), where).tolist() == [[-1, 1]]
    silent = Acts(switches=2).silence(torch.ones(1, 2, 2), where)
    assert np.isnan(silent[0, 0].numpy()).all()
    assert silent[0, 1].tolist() == [1, 1]


# ---- rewards and ends -------------------------------------------------------------------------------------


def test_two_hot_rewards_come_back_exactly():
    """Bins are symexp of even steps (DreamerV3), and the expectation of a two-hot target is what it is of."""
    bins = bins_of(63)
    assert bins[31] == 0
    torch.testing.assert_close(bins, -bins.flip(0))
    torch.testing.assert_close(bins.abs().log1p(), torch.linspace(-10, 10, 63).abs(), rtol=0, atol=1e-5)
    values = torch.tensor([[0.0, 1.0, -1.0, 0.37, -250.0, 9000.0], [0.1, 2.5, float(bins[40]), float(bins[0]), 5, -5]])
    target = two_hot(values, bins)
    assert bool(((target > 0).sum(-1) <= 2).all())
    torch.testing.assert_close(target.sum(-1), torch.ones_like(values))
    torch.testing.assert_close((target * bins).sum(-1), values)
    told = Outcome(target.clamp(min=1e-30).log(), torch.zeros(2, 6), bins)
    torch.testing.assert_close(told.rewards, values)


def test_the_loss_of_outcomes_is_least_at_the_truth():
    bins, rewards, ends = bins_of(15), torch.tensor([[0.0, 1.0]]), torch.tensor([[False, True]])
    right = Outcome(two_hot(rewards, bins).clamp(min=1e-12).log(), torch.tensor([[-20.0, 20.0]]), bins).losses(
        rewards, ends)
    even = Outcome(torch.zeros(1, 2, 15), torch.zeros(1, 2), bins).losses(rewards, ends)
    torch.testing.assert_close(even["reward"], torch.tensor(15.0).log())
    torch.testing.assert_close(even["end"], torch.tensor(2.0).log())
    entropy = -(two_hot(rewards, bins) * two_hot(rewards, bins).clamp(min=1e-12).log()).sum(-1).mean()
    torch.testing.assert_close(right["reward"], entropy)
    assert right["end"] < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_are_foretold_of_each_frame_and_never_from_later_ones(kind):
    for spec in (FRAMEWISE, TOGETHER):
        net, actions = built(replace(spec, outcomes=5), kind), torch.tensor([[-1, 0, 1, 2], [2, 2, 0, 0]])
        x, t, told = asked(actions)
        output, outcome = net.foretold(x, t, told)
        assert torch.equal(output, net(x, t, told))
        assert outcome.reward.shape == (2, 4, 5)
        assert outcome.end.shape == (2, 4)
        other = x.clone()
        other[:, 2] += 1
        changed = net.foretold(other, t, told)[1]
        difference = (changed.reward - outcome.reward).abs().amax((0, 2))
        assert difference[:2].tolist() == [0, 0]
        assert (difference[2:] > 0).all()
        cache = Cache()
        parts = [net.foretold(x[:, i : i + 1], t[:, i : i + 1], replace(told, actions=actions[:, i : i + 1]), cache)[1]
                 for i in range(4)]
        torch.testing.assert_close(torch.cat([p.rewards for p in parts], 1), outcome.rewards, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.cat([p.ended for p in parts], 1), outcome.ended, rtol=0, atol=1e-5)


def test_a_network_without_outcomes_foretells_none():
    net = built(FRAMEWISE, "modulation")
    assert net.foretold(*asked(None))[1] is None
    with pytest.raises(UserError, match="no bin for a reward of 0"):
        replace(FRAMEWISE, outcomes=4).build(3, 8, None, CHOICES)
    with pytest.raises(UserError, match="have some: leave it out"):
        replace(FRAMEWISE, outcomes=5).build(3, 8)

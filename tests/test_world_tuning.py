"""Tuning a world's solver: the next frame as it is played, and never worse than what was there."""

from dataclasses import replace

import pytest
import torch
from dots import SIDE
from test_dream import DONE, SEEDS, acting, clips, near
from tiny_world import recipe_of, record, write_run

import fromnoise
from fromnoise.blocks import Cache
from fromnoise.cli import main
from fromnoise.generate.solvers import remark
from fromnoise.nets.trunk import ByModulation, ByToken
from fromnoise.random import normal
from fromnoise.sample import Tuned, solve
from fromnoise.types import Batch, UserError
from fromnoise.worlds import Dream, tune
from fromnoise.worlds.tuning import is_world, remembered, windows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    return write_run(recipe_of(record(folder / "breakout")), folder / "run")


# ---- what is asked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["all tokens", "along time"])
@pytest.mark.parametrize("told", [ByModulation(), ByToken()], ids=["modulation", "token"])
@torch.inference_mode()
def test_a_frame_is_asked_for_as_a_dream_asks(kind, told):
    """The twin steps the world with its ring; without noise on history both see the same."""
    dream, done = Dream(acting(kind, told), context=3, history=0.0), torch.tensor(DONE["choices"])
    media = torch.cat([clips(frames=2), clips(frames=2).flip(-1), clips(frames=1)], 1).expand(-1, -1, 3, -1, -1)
    moment = remembered(dream, Batch(media, ["", ""], [0, 1], actions=done), seed=0, batch=1)
    state = dream.begin(media[:, 1:4], done[:, 1:4], SEEDS)
    x, t = torch.randn(2, 1, 3, SIDE, SIDE), torch.tensor(0.6)
    expected = dream.denoiser(x, t, dream.told(state, done[:, 4:]), cache=state.ring)
    for rows in ([0, 1], [1]):
        of = moment.map(lambda part, rows=rows: part[rows])
        near(dream.model.system.denoiser(x[rows], t, of.told, cache=of.past), expected[rows])
        assert of.past.frames == 3


@torch.no_grad()
def test_history_is_seen_at_its_noise_level():
    model, done = acting("along time", ByModulation()), torch.tensor(DONE["choices"])
    media = clips(frames=1).expand(-1, 5, 3, -1, -1)
    recorded = Batch(media, ["", ""], [0, 1], actions=done)
    clean, noisy, whole = (remembered(Dream(model, history=level), recorded, 0, batch)
                           for level, batch in ((0.0, 2), (0.3, 2), (0.3, 1)))
    for (a, _), (b, _), (c, _) in zip(*(m.past.pairs.values() for m in (clean, noisy, whole)), strict=True):
        near(b, c)
        assert float((a - b).abs().max()) > 1e-2


def test_rows_of_a_cache_are_chosen_and_joined():
    cache = Cache(pairs={0: (torch.arange(12.0).view(6, 2, 1, 1), torch.zeros(6, 2, 1, 1))}, valid=torch.eye(3) > 0)
    parts = [cache.map(lambda part, i=i: part[i : i + 1], 3) for i in range(3)]
    assert parts[1].pairs[0][0].flatten().tolist() == [4, 5, 6, 7]
    again = Cache.cat(parts)
    assert torch.equal(again.pairs[0][0], cache.pairs[0][0])
    assert torch.equal(again.valid, cache.valid)


# ---- what comes of it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nfe", "gain"), [(1, 0.99), (2, 0.9)])
def test_a_tuned_solver_is_nearer_to_many_looks_on_frames_not_seen(run, nfe, gain):
    dream = Dream(fromnoise.load(run), history=0.1)
    tuned = tune(dream, nfe, samples=24, seed=3, teacher=30, steps=24, seconds=1e6)
    assert (tuned.nfe, tuned.history, tuned.action_guidance, tuned.start) == (nfe, 0.1, 1.0, None)
    assert tuned.after.rms < gain * tuned.before.rms
    # On moments of its own and other noise, against another solver with many steps.
    recorded = windows(dream.model.recipe.data, 5)
    moment = remembered(dream, recorded, seed=9, batch=8)

    def denoise(x, t):
        return dream.model.system.denoiser(x, t, moment.told, cache=moment.past)

    noise, path = normal(list(range(5)), dream.shape)[:, None], dream.model.recipe.path
    with torch.no_grad():
        ends = solve(denoise, noise, path=path, solver="heun", nfe=99)
        off = [float((solve(denoise, noise, path=path, solver=solver, nfe=nfe) - ends).square().mean())
               for solver in (tuned, "euler")]
    assert off[0] < gain * off[1]


def test_on_the_command_line_and_by_its_name(run, capsys):
    assert main(["tune", str(run), "--nfe", "2", "--samples", "8", "--steps", "4", "--history", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "2 evaluations at guidance 1, history at noise level 0.1" in said
    kept = Tuned.load(run / "solvers" / "tuned-2.json")
    model = fromnoise.load(run)
    dream, told = Dream(model, solver="tuned-2"), model.settings("", solver="tuned-2", seed=0)
    assert remark(kept, told) == ""
    assert "at guidance on actions 1, for which alone" in remark(kept, replace(told, action_guidance=2.0))
    assert dream.plan.nfe == 2
    assert dream.plan.grid == kept.grid
    env = fromnoise.worlds.make(run, solver="tuned-2")
    env.reset(seed=0)
    frame = env.step(1)[0]
    usual = fromnoise.worlds.make(run, steps=2)
    usual.reset(seed=0)
    assert (frame != usual.step(1)[0]).any()


def test_what_cannot_be_tuned_is_refused(run, tmp_path):
    model = fromnoise.load(run)
    assert is_world(model.recipe)
    with pytest.raises(UserError, match="tuned on its next frames"):
        model.tune(2, samples=8)
    with pytest.raises(UserError, match="at least 1 evaluation"):
        tune(Dream(model), 0, samples=8)
    gone = replace(model.recipe, data=replace(model.recipe.data, root=str(tmp_path / "gone")))
    model.recipe = gone
    with pytest.raises(UserError, match="gone"):
        tune(Dream(model), 2, samples=8)

"""A dreamt world: each frame is what a solver makes of the masked forward over those before it, however it is held."""

import re
from dataclasses import replace

import pytest
import torch
from dots import SIDE, DotSource, films
from safetensors.torch import load, save

from fromnoise.blocks.recalled import RECALLED, Recalled
from fromnoise.cli import main
from fromnoise.data.episodes import Episodes
from fromnoise.data.episodes.actions import Continuous, Discrete, MultiBinary
from fromnoise.denoise import Held
from fromnoise.generate import Model
from fromnoise.latents import KL
from fromnoise.nets.trunk import Rotary
from fromnoise.nets.trunk.acting import ByModulation, ByToken
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.process import Flow, Frames
from fromnoise.random import HISTORY, fold, normal
from fromnoise.recipe import Sampling
from fromnoise.sample import run, solve, table_of
from fromnoise.system import System
from fromnoise.types import UserError
from fromnoise.worlds import Dream, State
from fromnoise.worlds import dream as dreaming
from fromnoise.worlds.pace import pace

STEPS, SEEDS = 3, [7, 11]


def recipe_of(kind, **changes):
    """A tiny causal model of dots, over all tokens or along time."""
    recipe = films(Frames(clock="each"), causal=True)
    net = replace(recipe.net, single=1)
    if kind == "along time":
        net = replace(net, mask="full", temporal=Temporal(every=1, causal=True))
    return replace(recipe, net=net, sample=Sampling(solver="euler", steps=STEPS, guidance=1.0), **changes)


def model_of(recipe):
    system = System.of(recipe, ["a dot"])
    torch.manual_seed(0)
    with torch.no_grad():  # weights that start at zero would hide faults
        for p in system.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return Model(system)


@pytest.fixture(scope="module", params=["all tokens", "along time"])
def model(request):
    return model_of(recipe_of(request.param))


def clips(rows=2, frames=2):
    return DotSource(frames).pictures(range(5, 5 + rows), [0])


def near(a, b, within=1e-4):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= within


def stepped(dream, state, count):
    """``[rows, count, C, H, W]``."""
    return torch.stack([dream.step(state).frame for _ in range(count)], dim=1)


# ---- what a frame is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("history", "solver"), [(0.0, "euler"), (0.15, "dpmpp_2m"), (0.3, "ancestral")])
@torch.no_grad()
def test_each_frame_is_solved_by_the_masked_forward_over_all_before_it(model, history, solver):
    dream, path = Dream(model, context=8, history=history, solver=solver, prompt="a dot"), model.recipe.path
    said = stepped(dream, dream.begin(clips(), None, SEEDS), 4)
    told, shape, level = model.encode(["a dot"] * 2), clips().shape[2:], torch.tensor(history)
    plan = table_of(path, shape, solver=solver, steps=STEPS, grid="uniform")

    def shown(x, n):
        return path.add_noise(x, normal(fold(fold(SEEDS, HISTORY), n), shape)[:, None], level)

    past = [shown(clips()[:, n : n + 1], n) for n in range(2)]
    for n in range(2, 6):
        def denoise(x, t, n=n):
            clocks = torch.tensor([[history] * n + [float(t)]]).expand(2, -1)
            return model.system.denoiser(torch.cat([*past, x], dim=1), clocks, told)[:, -1:]

        made = run(plan, denoise, plan.begin(normal(fold(SEEDS, n), shape)[:, None]),
                   lambda stage, _, n=n: normal(fold(SEEDS, n, stage), shape)[:, None])
        near(said[:, n - 2], made[:, 0].clamp(-1, 1))
        past.append(shown(made, n))


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "heun", "auto"])
def test_a_table_that_is_made_once_is_that_of_solve(solver):
    noise, flow = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), Flow()

    def denoise(x, t):
        return (x * (1 + t)).tanh()

    grid = {} if solver == "auto" else {"grid": "cosine", "shift": 2.0}
    plan = table_of(flow, (5,), solver=solver, steps=4, **grid)
    expected = solve(denoise, noise, path=flow, solver=solver, steps=4, **grid)
    assert torch.equal(run(plan, denoise, plan.begin(noise)), expected)


@torch.no_grad()
def test_old_frames_are_forgotten_and_the_sink_is_not(model):
    clip, other = clips(frames=6), clips(frames=6)
    other[:, 0] = 1.0
    said = {}
    for sink in (0, 1):
        dream = Dream(model, context=2, sink=sink)
        said[sink] = [stepped(dream, dream.begin(frames, None, SEEDS), 1) for frames in (clip, other)]
    # Without a sink frame 0 is still felt, through those that saw it, but less.
    gap = {sink: float((a - b).abs().max()) for sink, (a, b) in said.items()}
    assert gap[1] > 2 * gap[0]


@torch.inference_mode()
def test_latents_are_decoded_frame_by_frame():
    recipe = recipe_of("along time", latents=KL(channels=2, widths=(8, 8), depth=1, groups=4))
    model = model_of(recipe)
    dream = Dream(model)
    state = dream.begin(clips(), None, SEEDS)
    branch, frame = state.copy(), dream.step(state).frame
    latents, _ = dream.made(branch, dream.told(branch))
    assert latents.shape == (2, 1, 2, SIDE // 2, SIDE // 2)
    near(frame, model.system.latents.decode(latents)[:, 0].clamp(-1, 1), 1e-6)


def test_choices_are_the_recipes_unless_given(model):
    recipe, dream = model.recipe, Dream(model)
    assert (dream.context, dream.history, dream.plan.nfe) == (recipe.data.frames - 1, 0.0, STEPS)
    assert (dream.size, dream.channels, dream.fps) == ((SIDE, SIDE), 1, recipe.fps)
    assert Dream(model, steps=2).plan.nfe == 2
    noisy = Model(model.system)
    noisy.recipe = replace(recipe, sample=replace(recipe.sample, keep=Held(history=0.2)))
    assert Dream(noisy).history == 0.2
    assert Dream(noisy, history=0.0).history == 0.0


# ---- actions ---------------------------------------------------------------------------------------------------

SPACES = {"choices": Discrete(n=3), "switches": MultiBinary(n=2), "numbers": Continuous(low=(-2.0,), high=(1.0,))}
DONE = {"choices": [[-1, 0, 1, 2, 2], [-1, 2, 0, 2, 1]],
        "switches": [[[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]] * 2,
        "numbers": [[[0.5], [-2.0], [1.0], [0.0], [-1.0]]] * 2}


def acting(kind, told, space="choices", dropout=0.1, outcomes=0, turned=True):
    recipe = recipe_of(kind)
    positions = Rotary() if kind == "all tokens" and turned else recipe.net.positions
    net = replace(recipe.net, actions=told, outcomes=outcomes, positions=positions)
    data = Episodes(root="none", frames=6, fps=10.0, height=SIDE, width=SIDE, actions=SPACES[space])
    return model_of(replace(recipe, net=net, data=data, train=replace(recipe.train, action_dropout=dropout)))


@pytest.mark.parametrize("kind", ["all tokens", "along time"])
@pytest.mark.parametrize("told", [ByModulation(), ByToken()], ids=["modulation", "token"])
@pytest.mark.parametrize("space", SPACES)
@torch.no_grad()
def test_guidance_drops_the_action_of_the_frame_that_is_made_alone(kind, told, space):
    model, scale = acting(kind, told, space), 2.5
    denoiser = model.system.denoiser
    clip, done = clips().expand(-1, -1, 3, -1, -1), torch.tensor(DONE[space])
    for s in (1.0, scale):
        dream = Dream(model, guidance=s)
        state, past = dream.begin(clip, done[:, :2], SEEDS), clip
        for n in range(2, 5):
            plan, condition = dream.plan, model.encode([""] * 2)

            def denoise(x, t, n=n, past=past, s=s, condition=condition):
                clocks, acted = torch.tensor([[0.0] * n + [float(t)]]).expand(2, -1), done[:, : n + 1]
                silent = model.recipe.acts.silence(acted, (torch.arange(n + 1) == n).expand(2, -1))
                d, w = (denoiser(torch.cat([past, x], dim=1), clocks, replace(condition, actions=a))[:, -1:]
                        for a in (acted, silent))
                return w + s * (d - w)

            made = run(plan, denoise, plan.begin(normal(fold(SEEDS, n), clip.shape[2:])[:, None]))
            frame = dream.step(state, done[:, n]).frame
            near(frame, made[:, 0].clamp(-1, 1), 1e-3)
            past = torch.cat([past, made], dim=1)


@torch.no_grad()
def test_an_action_is_seen_in_the_very_next_frame():
    dream = Dream(acting("along time", ByModulation()), guidance=1.0)
    state = dream.begin(clips().expand(-1, -1, 3, -1, -1), None, SEEDS)
    assert dream.step(state.copy()).reward is None
    one, two = (dream.step(state.copy(), torch.tensor([0, a])).frame for a in (0, 2))
    near(one[0], two[0], 1e-6)
    assert float((one[1] - two[1]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["all tokens", "along time"])
@torch.inference_mode()
def test_rewards_and_ends_are_those_of_the_frame_as_it_is_committed(kind):
    model, done = acting(kind, ByModulation(), outcomes=5), torch.tensor(DONE["choices"])
    dream = Dream(model, history=0.2)
    clip = clips().expand(-1, -1, 3, -1, -1)
    state, past = dream.begin(clip, done[:, :2], SEEDS), clip
    for n in range(2, 5):
        latents, _ = dream.made(state.copy(), dream.told(state, done[:, n : n + 1]))
        stepped = dream.step(state, done[:, n])
        past = torch.cat([past, latents], dim=1)
        eps = torch.stack([normal(fold(fold(SEEDS, HISTORY), f), clip.shape[2:]) for f in range(n + 1)], dim=1)
        shown = model.recipe.path.add_noise(past, eps, torch.tensor(0.2))
        told = replace(model.encode([""] * 2), actions=done[:, : n + 1])
        outcome = model.system.denoiser.net.foretold(shown, torch.full((2, n + 1), 0.2), told)[1]
        assert stepped.reward.shape == stepped.ended.shape == (2,)
        torch.testing.assert_close(stepped.reward, outcome.rewards[:, -1], rtol=1e-3, atol=1e-3)
        assert torch.equal(stepped.ended, outcome.end[:, -1] > 0)


@pytest.mark.parametrize("kind", ["all tokens", "along time"])
@pytest.mark.parametrize(("scale", "solver"), [(1.0, "euler"), (2.5, "dpmpp_2m")])
@torch.inference_mode()
def test_committed_as_seen_last_history_is_what_the_last_evaluation_saw(kind, scale, solver):
    """The twin sees in one forward all frames before, each as it was in its last evaluation and told that clock."""
    model, done, history = acting(kind, ByModulation(), outcomes=5), torch.tensor(DONE["choices"]), 0.15
    dream = Dream(model, context=8, history=history, guidance=scale, solver=solver, commit="last")
    clip, shape = clips().expand(-1, -1, 3, -1, -1), (3, SIDE, SIDE)
    state, denoiser, looks = dream.begin(clip, done[:, :2], SEEDS), model.system.denoiser, []
    eps = torch.stack([normal(fold(fold(SEEDS, HISTORY), f), shape) for f in range(2)], dim=1)
    past, clocks = model.recipe.path.add_noise(clip, eps, torch.tensor(history)), [history] * 2
    hook = dream.net.register_forward_hook(lambda *_: looks.append(1))
    for n in range(2, 5):
        asked = []

        def denoise(x, t, n=n, past=past, clocks=clocks, asked=asked):
            asked.append((torch.cat([past, x], dim=1), [*clocks, float(t)]))
            now, acted = torch.tensor([asked[-1][1]]).expand(2, -1), done[:, : n + 1]
            silent = model.recipe.acts.silence(acted, (torch.arange(n + 1) == n).expand(2, -1))
            d, w = (denoiser(asked[-1][0], now, replace(model.encode([""] * 2), actions=a))[:, -1:]
                    for a in (acted, silent))
            return w + scale * (d - w)

        looks.clear()
        made = run(dream.plan, denoise, dream.plan.begin(normal(fold(SEEDS, n), shape)[:, None]))
        looks.clear()
        said = dream.step(state, done[:, n])
        assert len(looks) == STEPS * (1 + (scale != 1))
        near(said.frame, made[:, 0].clamp(-1, 1), 1e-3)
        past, clocks = asked[-1]
        told = replace(model.encode([""] * 2), actions=done[:, : n + 1])
        outcome = denoiser.net.foretold(past, torch.tensor([clocks]).expand(2, -1), told)[1]
        torch.testing.assert_close(said.reward, outcome.rewards[:, -1], rtol=1e-3, atol=1e-3)
    hook.remove()
    with pytest.raises(UserError, match="committed clean, or as the last"):
        Dream(model, commit="first")


def test_guidance_is_the_recipes_where_it_was_learned(model):
    able = acting("along time", ByModulation())
    able.recipe = replace(able.recipe, sample=replace(able.recipe.sample, action_guidance=3.0))
    assert Dream(able).guidance == 3
    assert Dream(able, guidance=2.0).guidance == 2
    assert Dream(model).guidance == 1
    for other in (model, acting("along time", ByModulation(), dropout=0.0)):
        with pytest.raises(UserError, match="has not learned"):
            Dream(other, guidance=2.0)
    with pytest.raises(UserError, match="is a number"):
        Dream(able, guidance=float("nan"))


@pytest.mark.parametrize(("space", "action"), [
    ("choices", 3), ("choices", -2), ("choices", 0.5), ("switches", [0.0, 0.5]), ("numbers", [1.1])])
def test_what_cannot_be_done_is_refused(space, action):
    dream = Dream(acting("along time", ByModulation(), space))
    state = dream.begin(clips(1).expand(-1, -1, 3, -1, -1), None, [0])
    with pytest.raises(UserError, match=r"An action is .* \(got"):
        dream.step(state, torch.tensor([action]))
    with pytest.raises(UserError, match=r"give actions \[1"):
        dream.step(state, torch.zeros(2, 5))
    assert state.passed == (2,)


# ---- states ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_copies_and_saved_states_go_on_bit_for_bit(model):
    dream = Dream(model, context=3, sink=1, history=0.1)
    state = dream.begin(clips(), None, SEEDS)
    stepped(dream, state, 5)
    branch, saved = state.copy(), save(state.tensors())
    rest = stepped(dream, state, 3)
    assert torch.equal(stepped(dream, branch, 3), rest)
    again = State.of(load(saved))
    assert again.passed == (7, 7)
    assert torch.equal(stepped(dream, again, 3), rest)
    assert torch.equal(stepped(dream, again, 1), stepped(dream, state, 1))


@torch.no_grad()
def test_rows_are_worlds_of_their_own(model):
    dream = Dream(model, context=3, sink=1, history=0.1)
    both = dream.begin(clips(), None, SEEDS)
    alone = [dream.begin(clips()[i : i + 1], None, SEEDS[i : i + 1]) for i in range(2)]
    near(stepped(dream, both, 5), torch.cat([stepped(dream, one, 5) for one in alone]))
    fresh = dream.begin(clips(3)[2:], None, [13])
    both.put(0, fresh)  # a row begins anew while the other goes on
    assert both.passed == (2, 7)
    near(stepped(dream, both, 6), torch.cat([stepped(dream, fresh, 6), stepped(dream, alone[1], 6)]))
    assert both.rows(1).passed == (13,)
    near(stepped(dream, both.rows(1), 1), stepped(dream, alone[1], 1))


@torch.no_grad()
def test_the_seed_alone_decides_what_is_not_known(model):
    dream = Dream(model)
    first, same, other = (stepped(dream, dream.begin(clips(1), None, [seed]), 2) for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert float((first - other).abs().max()) > 1e-3


@torch.no_grad()
def test_what_a_world_holds_does_not_grow(model):
    dream = Dream(model, context=3)
    state = dream.begin(clips(1), None, [0])

    def held():
        return {name: (tensor.shape, tensor.dtype) for name, tensor in state.tensors().items()}

    before = held()
    stepped(dream, state, 8)
    assert held() == before
    assert state.passed == (10,)


# ---- what cannot be --------------------------------------------------------------------------------------------


def test_models_that_cannot_be_stepped_are_refused():
    plain, causal = films(Frames(clock="each")), recipe_of("along time")
    with pytest.raises(UserError, match="frames see those to come"):
        Dream(model_of(plain))
    self_told = replace(causal, train=replace(causal.train, self_conditioning=0.5),
                        net=replace(causal.net, image_channels=1))
    with pytest.raises(UserError, match="pictures beside its frames"):
        Dream(model_of(self_told))


def test_choices_that_cannot_be_are_refused(model):
    with pytest.raises(UserError, match="at least 1"):
        Dream(model, context=-2)
    with pytest.raises(UserError, match="GiB in each world"):
        Dream(model, context=10**10)
    with pytest.raises(UserError, match="choose a sink from 0 to 3"):
        Dream(model, context=3, sink=4)
    with pytest.raises(UserError, match="noise level from 0 to 1"):
        Dream(model, history=1.5)
    with pytest.raises(UserError, match="finds its steps on the way"):
        Dream(model, solver="rk45")
    dream = Dream(model)
    with pytest.raises(UserError, match="told no actions"):
        dream.begin(clips(), torch.zeros(2, 2), SEEDS)
    with pytest.raises(UserError, match=r"\[rows, T, 1, 8, 8\] .* \[2, 2, 1, 4, 8\]"):
        dream.begin(clips()[:, :, :, :4], None, SEEDS)
    with pytest.raises(UserError, match=r"give 2 \(got 1\)"):
        dream.begin(clips(), None, [0])
    state = dream.begin(clips(), None, SEEDS)
    with pytest.raises(UserError, match="same world"):
        state.put(0, Dream(model, context=2).begin(clips(1), None, [0]))
    with pytest.raises(UserError, match="not the state of a world"):
        State.of({"seeds": torch.zeros(1, dtype=torch.long)})


# ---- its pace --------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_bfloat16_is_near():
    model = model_of(recipe_of("along time"))
    exact, rough = (Dream(model, precision=precision) for precision in ("float32", "bfloat16"))
    a, b = (stepped(dream, dream.begin(clips(), None, SEEDS), 1) for dream in (exact, rough))
    assert 0 < float((a - b).abs().mean()) < 0.05
    with pytest.raises(UserError, match="auto, float32 or bfloat16"):
        Dream(model, precision="int8")


@pytest.mark.parametrize("told", [ByModulation(), ByToken()], ids=["modulation", "token"])
def test_what_a_look_is_told_is_worked_out_once(told, monkeypatch):
    """Maps of noise levels and actions recall what they said, bit for bit, and no more than a few answers of it."""
    model, actions = acting("along time", told), torch.randint(3, (80, 1), generator=torch.Generator().manual_seed(0))
    clip = clips(1).expand(-1, -1, 3, -1, -1)
    recalled = Dream(model)
    with monkeypatch.context() as patched:
        patched.setattr(dreaming, "recalling", lambda network: None)
        plain = Dream(model)
    asked = []
    inner = recalled.net.head.modulation.map
    inner.register_forward_hook(lambda *_: asked.append(1))
    first, second = (dream.begin(clip, None, [0]) for dream in (recalled, plain))
    for action in actions:
        assert torch.equal(recalled.step(first, action).frame, plain.step(second, action).frame)
    looks = STEPS + 1
    assert len(asked) == (3 * looks + 1 if isinstance(told, ByModulation) else looks)
    maps = [part for part in recalled.net.modules() if isinstance(part, Recalled)]
    assert len(maps) == 5  # of the noise level, of actions, of the block, the layer along time and the head
    for i in range(2 * RECALLED):
        maps[0](torch.full((1, 1, maps[0].map[0].in_features), float(i)))
    assert len(maps[0].known) == RECALLED


def test_the_pace_of_a_world_is_measured(monkeypatch, capsys):
    model = acting("along time", ByModulation())
    monkeypatch.setattr("fromnoise.worlds.pace.untrained", lambda: model)
    assert main(["bench", "worlds", "--frames", "300", "--context", "3", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "1 + 1 looks a frame, 3 frames seen" in said
    assert re.search(r"late over early: \d+\.\d{3}; memory gained in between: -?\d+\.\d\d MiB", said)
    with pytest.raises(UserError, match="take 300 frames"):
        pace(Dream(model), 299)
    assert main(["bench", "--seed", "1", "worlds"]) == 2
    assert "Say first what to measure" in capsys.readouterr().err


def test_the_pace_is_measured_with_actions_that_can_be_done():
    dream = Dream(acting("along time", ByModulation(), "numbers"), context=3, steps=1)
    dream.actions = Continuous(low=(0.6,), high=(0.9,))
    assert pace(dream, 300).frames == 300

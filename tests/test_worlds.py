"""World models as a user trains, samples and measures them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_dream import acting as tiny_world

from fromnoise import windows
from fromnoise.actions import Doing, as_tensor, rows_of
from fromnoise.config import to_dict
from fromnoise.data.episodes import Episode
from fromnoise.data.episodes.actions import Continuous, Discrete, MultiBinary
from fromnoise.data.episodes.writer import Writer
from fromnoise.denoise import Held, acting, blurred
from fromnoise.evaluate.worlds import evaluate_world
from fromnoise.generate import Model
from fromnoise.given import Given
from fromnoise.nets.trunk import ByModulation, ByToken, TrunkNet
from fromnoise.output import read_picture
from fromnoise.process import Flow
from fromnoise.recipes import world
from fromnoise.system import System
from fromnoise.train import Hooks, train
from fromnoise.train.methods import METHODS
from fromnoise.types import Acts, Condition, UserError

SIDE, CELLS = 16, 4  # pixels, and places of the dot on its line
MOVES = Discrete(n=3, meanings=("stay", "left", "right"))


def drawn(places: np.ndarray) -> np.ndarray:
    """Frames uint8 ``[T, SIDE, SIDE, 3]`` of a white square at these places of the middle line."""
    frames = np.zeros((len(places), SIDE, SIDE, 3), np.uint8)
    for frame, place in zip(frames, places, strict=True):
        frame[4:12, 4 * place : 4 * place + 4] = 255
    return frames


def moved(start: int, actions: np.ndarray) -> np.ndarray:
    """Where the dot is, which an action moves to the left or right as far as the walls."""
    places = [start]
    for action in actions:
        places.append(int(np.clip(places[-1] + (0, -1, 1)[action], 0, CELLS - 1)))
    return np.array(places)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Episodes of a dot that goes where it is told; it is rewarded at the right wall."""
    root, rng = tmp_path_factory.mktemp("dots") / "dots", np.random.default_rng(0)
    writer = Writer(root, MOVES, 8.0, "lossless", {"actions": to_dict(MOVES)})
    episodes = []
    for _ in range(24):
        actions = rng.integers(3, size=11)
        places = moved(int(rng.integers(CELLS)), actions)
        episodes.append(Episode(drawn(places), actions, (places[1:] == CELLS - 1).astype(np.float32), False, True))
    writer.append(episodes)
    return root


def tiny(root, **training):
    """The recipe world at the size of a test."""
    recipe = world()
    net = replace(recipe.net, width=32, single=2, patch=4, outcomes=9)
    return replace(recipe, data=replace(recipe.data, root=str(root), frames=5, height=SIDE, width=SIDE), net=net,
                   train=replace(recipe.train, threads=1, preview_every=0, **{"steps": 3, "batch": 4, **training}))


@pytest.fixture(scope="module")
def model(recording):
    return untrained(tiny(recording))


def untrained(recipe):
    """A world whose weights are not zero."""
    recipe = recipe.resolved()
    system = System(recipe, recipe.text.learn_tokenizer([""]))
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in system.denoiser.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=g))
    return Model(system)


# ---- denoisers ------------------------------------------------------------------------------------------


def test_guidance_on_actions_is_its_formula():
    """D = w + s (d - w), w without the actions of the frames that are being made."""
    done, asked = torch.tensor([[0, 1, 2]]), []

    def denoise(x, t, condition):
        asked.append(condition.actions)
        return x * 0 + condition.actions.float()[:, :, None, None, None] ** 2

    x, t = torch.zeros(2, 3, 1, 1, 1), torch.tensor([[0.0, 0.0, 0.5]])
    guided = acting(denoise, Doing(done, 2), Acts(choices=3), 3.0)(x, t, Condition())
    assert guided[0].flatten().tolist() == [0, 1, 1 + 3 * (4 - 1)]
    assert torch.cat(asked).tolist() == [[0, 1, -1]] * 2 + [[0, 1, 2]] * 2
    asked.clear()
    plain = acting(denoise, Doing(done, 2), Acts(choices=3))(x, torch.tensor(0.5), Condition())
    assert plain[1].flatten().tolist() == [0, 1, 4]
    assert len(asked) == 1
    everything = acting(denoise, Doing(done, 2), Acts(choices=3), 2.0)(x, torch.tensor(0.5), Condition())
    assert everything[0].flatten().tolist() == [2 * 0 - 1, 2 * 1 - 1, 2 * 4 - 1]


def test_history_is_known_by_its_clock_before_it_is_blurred():
    seen = []

    def denoise(x, t, condition):
        seen.append((t, condition.actions))
        return x

    around = blurred(denoise, Flow(), 0.1, torch.zeros_like)
    acting(around, Doing(torch.tensor([[1, 2]]), 1), Acts(choices=3), 2.0)(
        torch.zeros(1, 2, 1, 1, 1), torch.tensor([[0.0, 0.7]]), Condition())
    t, actions = seen[0]
    assert t.squeeze(0).tolist() == pytest.approx([0.1, 0.7])
    assert actions.tolist() == [[1, -1], [1, 2]]


def test_doing_is_of_the_frames_and_rows_that_are_asked_for():
    doing = Doing(torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7]]), 2, start=1)
    assert doing(torch.zeros(4, 2, 1)).tolist() == [[1, 2], [5, 6]] * 2
    doing.start = 3
    assert doing(torch.zeros(2, 1, 1)).tolist() == [[3], [7]]


# ---- sampling -------------------------------------------------------------------------------------------


def first(count=1):
    return torch.from_numpy(drawn(np.array([1, 2][:count]))).permute(0, 3, 1, 2) / 127.5 - 1


def test_a_clip_is_sampled_by_actions_and_made_again_from_its_file(model, tmp_path):
    made = model.sample("", given=Given(first()), actions=["right", 2, "left", -1])
    assert made.settings.actions == [[None, 2, 2, 1, None]]
    assert torch.equal(made.media[0, 0], first()[0])
    told = read_picture(made.save(tmp_path / "clip.png"))["settings"]
    again = model.sample("", given=Given(first()), actions=told.actions)
    assert torch.equal(again.media, made.media)
    other = model.sample("", given=Given(first()), actions=[2, 2, 0, -1])
    assert torch.equal(other.media[:, :3], made.media[:, :3])
    assert not torch.equal(other.media[:, 3], made.media[:, 3])


def test_samples_of_a_batch_have_their_own_actions(model):
    both = torch.tensor([[2, 2, 1, 0], [0, 1, 0, 1]])
    given = Given(first()[None].expand(2, -1, -1, -1, -1))
    whole = model.sample(["", ""], given=given, actions=both).media
    parts = model.sample(["", ""], given=given, actions=both, batch=1).media
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    alone = model.sample("", given=Given(first()), actions=both[1], first=1).media
    torch.testing.assert_close(alone[0], whole[1], rtol=0, atol=1e-5)


def test_a_rollout_is_told_the_actions_of_each_window(model):
    """A window behind the first is asked with the actions of its own frames."""
    actions = [0, 1, 2, 0, 1, 2, 0, 1]
    one = model.sample("", given=Given(first()), frames=9, overlap=2, actions=actions).media
    two = model.sample("", given=Given(first()), frames=9, overlap=2, actions=[*actions[:-1], 2]).media
    assert torch.equal(one[:, :8], two[:, :8])
    assert not torch.equal(one[:, 8], two[:, 8])


@pytest.mark.parametrize(("kind", "told"), [
    ("all tokens", ByModulation()), ("along time", ByModulation()), ("along time", ByToken())])
def test_a_rollout_that_is_remembered_is_told_the_actions_of_its_frames(kind, told, monkeypatch):
    """With one block a cache of the frames that a window knows is the same as showing it these again; not where
    positions are turns and there is a text, from which the frames of a cache go farther and farther away."""
    model, actions = tiny_world(kind, told, turned=False), [1, 2, 0, 2, 1, 0, 0, 2, 1, 1, 2, 0, 2]
    given = Given(torch.linspace(-1, 1, 3 * 8 * 8).view(1, 3, 8, 8))
    choices = {"given": given, "frames": 14, "overlap": 2, "keep": Held(history=0.1), "seed": 3}
    forward, counts = TrunkNet.forward, []
    monkeypatch.setattr(TrunkNet, "forward",
                        lambda self, x, *a, **k: counts.append(x.shape[1]) or forward(self, x, *a, **k))
    kept = model.sample("", actions=actions, **choices).media
    assert max(counts) == 5
    other = model.sample("", actions=[*actions[:-1], 1], **choices).media
    assert torch.equal(kept[:, :13], other[:, :13])
    assert not torch.equal(kept[:, 13], other[:, 13])
    monkeypatch.setattr(windows, "remembers", lambda *_: False)
    shown = model.sample("", actions=actions, **choices).media
    assert max(counts) == 6
    torch.testing.assert_close(kept, shown, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("actions", "sentence"), [
    (None, "told what leads to each frame: give actions, one for each of the 4 frames to be made"),
    ([0, 1], "4 frames are to be made, and 2 actions are given"),
    ([0, 1, 2, 3], "Action 3 cannot be done here: there are 3 choices"),
    ([0, 1, 2, 0.5], "Action 0.5 cannot be done here"),
    ([0, 1, 2, "jump"], 'no action "jump" here'),
    ([[0, 1, 2, 0]] * 3, "given for 3 samples, and 1 are to be made"),
    ([[0, 1], [2]], "a row for each sample"),
    (object(), "Actions are numbers in a row"),
])
def test_actions_that_cannot_be_are_refused_in_a_sentence(model, actions, sentence):
    with pytest.raises(UserError, match=sentence) as why:
        model.sample("", given=Given(first()), actions=actions)
    assert "\n" not in str(why.value)


def test_switches_and_numbers_are_read(model):
    settings = model.settings([""], frames=3, seed=0)

    def rows(actions, what):
        recipe = replace(model.recipe, data=replace(model.recipe.data, actions=what))
        return as_tensor(rows_of(actions, settings, recipe, None), what.acts)

    assert rows([[0, 1], [1, 1], None], MultiBinary(n=2))[0, :2].tolist() == [[0, 1], [1, 1]]
    numbers = rows([0.5, float("nan"), -1.0], Continuous(low=(-1.0,), high=(1.0,)))
    assert numbers.shape == (1, 3, 1)
    assert bool(numbers[0, 1].isnan().all())
    with pytest.raises(UserError, match=r"Action \[2.0\] cannot be done"):
        rows([0.5, 2.0, 0.0], Continuous(low=(-1.0,), high=(1.0,)))
    with pytest.raises(UserError, match=r"Action \[0.0, 0.5\] cannot be done"):
        rows([[0, 1], [1, 1], [0, 0.5]], MultiBinary(n=2))


# ---- training -------------------------------------------------------------------------------------------


def loss_of(recipe, change=lambda batch: batch):
    """The loss of the first batch under weights that are not zero."""
    recipe = recipe.resolved()
    system = System(recipe, recipe.text.learn_tokenizer([""]))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in system.denoiser.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    batch = recipe.data.open("train").batch(range(4), range(4))
    return float(METHODS["diffusion"](system).loss(change(batch), 0, 0).detach())


def test_dropped_actions_are_actions_that_are_not_told(recording):
    recipe = tiny(recording, action_dropout=0.999999)
    none = loss_of(recipe, lambda batch: replace(batch, actions=torch.full_like(batch.actions, -1)))
    assert loss_of(recipe) == none
    assert loss_of(tiny(recording, action_dropout=0.0)) != none


def test_outcomes_count_by_their_weight(recording):
    plain, more, most = (loss_of(tiny(recording, outcomes=weight)) for weight in (0.0, 1.0, 2.0))
    assert more > plain
    assert most - more == pytest.approx(more - plain, rel=1e-4)


def test_a_killed_world_goes_on_as_if_it_had_not_been(recording, tmp_path):
    class Killed(Exception):
        pass

    def kill(line):
        raise Killed

    recipe = tiny(recording, steps=12, checkpoint_every=5)
    whole = train(recipe, tmp_path / "whole").system.state_dict()
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", Hooks(progress=kill))
    parts = train(recipe, tmp_path / "killed").system.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any("action_in" in name for name in whole)
    assert any("outcomes" in name for name in whole)


def test_the_judge_knows_a_model_that_heeds_actions_from_one_that_does_not(recording):
    data = tiny(recording).resolved().data

    def heeds(given, actions):
        clips = []
        for known, told in zip(given, actions, strict=True):
            start = int(known[-1, 0, 8].argmax()) // 4
            places = moved(start, told[len(known) :].clamp(min=0).numpy())[1:]
            made = torch.from_numpy(drawn(places)).permute(0, 3, 1, 2) / 127.5 - 1
            clips.append(torch.cat([known, made]))
        return torch.stack(clips)

    def still(given, actions):
        return torch.cat([given, given[:, -1:].expand(-1, actions.shape[1] - given.shape[1], -1, -1, -1)], dim=1)

    true, deaf = (evaluate_world(play, data, count=12) for play in (heeds, still))
    assert true["next frame, PSNR dB"] == 100
    assert true["gain by the action, dB"] > 5
    assert deaf["gain by the action, dB"] == 0
    assert deaf["gain by the actions, dB"] == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["modulation", "token"])
def test_a_tiny_world_is_learned_and_another_action_makes_another_frame(recording, tmp_path, kind):
    recipe = tiny(recording, steps=700, batch=16, checkpoint_every=700)
    recipe = replace(recipe, net=replace(recipe.net, actions={"kind": kind}))
    made = Model(train(recipe, tmp_path / kind).system)
    for start in (1, 2):
        given = Given(torch.from_numpy(drawn(np.array([start]))).permute(0, 3, 1, 2) / 127.5 - 1)
        for action in range(3):
            clip = made.sample("", given=given, actions=[action, 0], frames=3).media
            truth = torch.from_numpy(drawn(moved(start, np.array([action, 0])))).permute(0, 3, 1, 2) / 127.5 - 1
            assert float((clip[0] - truth).abs().mean()) < 0.15

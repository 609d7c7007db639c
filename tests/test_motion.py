"""Things that move: physics against closed forms and a slow twin, scenes, captions, and the data set."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.data.moving import SHORTEST, Moving
from fromnoise.data.universe import (
    ACTIONS,
    SHAPES,
    SIZES,
    Action,
    Clause,
    Story,
    Thing,
    World,
    is_held_out_motion,
    parse_story,
    paths,
    render,
    sample_motion,
    stories,
    supersampled,
    told,
)
from fromnoise.data.universe.actions import AFTER, APART, ENDS, SEEN, SIDEWAYS, SOON, SPEEDS, walls
from fromnoise.data.universe.motion import REST
from fromnoise.data.universe.render import BACKGROUND, REACH
from fromnoise.data.universe.scene import RADIUS, Scenes
from fromnoise.recipe import Recipe, without_effect
from fromnoise.recipes import RECIPES

WORLD = World(1.0, 0.5, 0.8, 1.0, 1.0, np.arange(16) / 8)


def stepped(p, v, a, low, high, e, times, step=1e-5):
    """The slow twin: tiny steps, and a wall turns whatever is beyond it and goes on outwards."""
    found, t = [], 0.0
    for wanted in times:
        while t < wanted - step / 2:
            p, v, t = p + v * step + a * step**2 / 2, v + a * step, t + step
            if (p > high and v > 0) or (p < low and v < 0):
                v = -e * v
        found.append(p)
    return np.array(found)


@pytest.mark.parametrize(("p", "v", "a", "e"), [
    (0.3, 0.6, 0.0, 0.8), (0.3, -0.5, 0.0, 1.0), (0.2, 0.0, 1.0, 0.8), (0.8, -0.9, 1.0, 0.6), (0.5, 0.3, -0.7, 0.9),
    (0.85, 0.0, 4.0, 0.5), (0.5, 2.5, 0.4, 0.7)])
def test_paths_equal_their_slow_twin(p, v, a, e):
    times = np.linspace(0, 2, 33)
    exact = paths(p, v, a, 0.1, 0.9, e, 2.0).at(times)
    np.testing.assert_allclose(exact, stepped(p, v, a, 0.1, 0.9, e, times), atol=2e-3)


def test_a_fall_is_the_parabola_and_its_bounces_the_closed_form():
    """A drop from h: the floor after s = sqrt(2h/g), rebounds of height e^2 h, at rest after s (1 + e) / (1 - e)."""
    g, h, e = 1.3, 0.6, 0.75
    path = paths(0.2, 0.0, g, 0.0, 0.8, e, 10.0)
    first = np.sqrt(2 * h / g)
    times = np.linspace(0, first, 9)
    np.testing.assert_allclose(path.at(times), 0.2 + g * times**2 / 2, atol=1e-12)
    np.testing.assert_allclose(path.first_bounce, first, rtol=1e-12)
    n = np.arange(1, 8)
    bounces = first * (1 + 2 * np.cumsum(e**n) / 1)  # each flight is e times as long as the one before
    np.testing.assert_allclose(path.start[2:9], bounces, rtol=1e-12)
    tops = (path.start[1:8] + path.start[2:9]) / 2
    np.testing.assert_allclose(0.8 - path.at(tops), h * e ** (2 * n), rtol=1e-9)
    lies = first * (1 + e) / (1 - e)
    position, velocity = path.state(np.array([lies, 10.0]))
    np.testing.assert_allclose(position, 0.8, atol=REST)
    assert velocity[1] == 0
    assert path.at(np.array([0.9 * lies]))[0] < 0.8 - REST


@settings(max_examples=40, deadline=None)
@given(p=st.floats(0.1, 0.9), v=st.floats(-3, 3), a=st.floats(-3, 3))
def test_energy_is_conserved_where_nothing_is_lost(p, v, a):
    position, velocity = paths(p, v, a, 0.1, 0.9, 1.0, 3.0).state(np.linspace(0, 3, 50))
    energy = velocity**2 / 2 - a * position
    np.testing.assert_allclose(energy, energy[0], atol=1e-9 + abs(a) * 2 * REST)
    assert position.min() >= 0.1 - 1e-9
    assert position.max() <= 0.9 + 1e-9


def test_reflections_are_symmetric():
    """Without loss a path is the triangle wave, mirrored when the world is, and back to its beginning reversed."""
    times = np.linspace(0, 5, 41)
    path = paths(0.3, 0.7, 0.0, 0.1, 0.9, 1.0, 5.0)
    wave = 0.1 + np.abs((0.2 + 0.7 * times + 0.8) % 1.6 - 0.8)
    np.testing.assert_allclose(path.at(times), wave, atol=1e-12)
    np.testing.assert_allclose(paths(0.7, -0.7, 0.0, 0.1, 0.9, 1.0, 5.0).at(times), 1 - wave, atol=1e-12)
    end, speed = path.state(np.array([5.0]))
    np.testing.assert_allclose(paths(end[0], -speed[0], 0.0, 0.1, 0.9, 1.0, 5.0).at(times), wave[::-1], atol=1e-11)
    assert path.wall[0] == 0
    assert path.wall[1:4].tolist() == [1, -1, 1]
    slow = paths(0.3, 0.7, 0.0, 0.1, 0.9, 0.6, 9.0)
    np.testing.assert_allclose(np.abs(slow.velocity[1:4]), 0.7 * 0.6 ** np.arange(1, 4), rtol=1e-12)


def test_paths_end_where_they_are_known_and_begin_between_the_walls():
    path = paths(np.array([0.0, 2.0]), 0.0, 0.0, 0.1, 0.9, 1.0, 1.0)
    assert path.at(np.array([0.5])).tolist() == [[0.1], [0.9]]
    assert np.isinf(path.first_bounce).all()
    with pytest.raises(ValueError, match="known from 0 to 1 s"):
        path.at(np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match="known from 0 to 1 s"):
        path.at(np.array([-0.1]))
    gaining = paths(0.5, 1.0, 0.0, 0.1, 0.9, 1.5, 100.0, bounces=30)  # it would bounce without end
    assert gaining.start.shape[-1] == 31


def test_frames_at_any_rate_are_those_of_one_path():
    """Every second frame of a clip at twice the rate is the clip, to the last bit."""
    fast = replace(WORLD, times=np.arange(31) / 16)
    slow, quick = (sample_motion(range(20), 2, False, w) for w in (WORLD, replace(fast, times=fast.times)))
    same = np.array([a == b for a, b in zip(stories(slow), stories(quick), strict=True)])
    assert same.mean() > 0.8  # which frames two things are apart in may differ
    assert torch.equal(slow.render()[same], quick.render()[same][:, ::2])


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_things_reach_as_far_as_is_said(shape):
    """At the walls they are drawn whole, and touch the edge of the frame."""
    size = np.ones((2, 1), dtype=int)
    kind = np.full((2, 1), shape)
    low, high = walls(kind, size, 1.0, 1.0)
    np.testing.assert_allclose(low, REACH[shape] * RADIUS[1] * np.ones((2, 1, 2)))
    where = np.stack([low[0], high[0]])
    drawn = render(Scenes(kind, np.zeros_like(kind), size, where, 0 * where, np.zeros((2, 0), dtype=int)), 256, 256)
    away = (drawn[:, 0] - BACKGROUND.view(3, 1, 1)).abs().amax(1) > 0.5
    columns, rows = away.any(1), away.any(2)
    assert bool(columns[0, :3].any())
    assert bool(rows[0, :4].any())
    assert bool(columns[1, -3:].any())
    assert bool(rows[1, -4:].any())
    middle = render(Scenes(kind[:1], kind[:1] * 0, size[:1], np.full((1, 1, 2), 0.5), np.zeros((1, 1, 2)),
                           np.zeros((1, 0), dtype=int)), 256, 256)
    area = [float((x - BACKGROUND.view(3, 1, 1)).abs().sum()) for x in (*drawn[:, 0], middle[0, 0])]
    np.testing.assert_allclose(area[:2], area[2], rtol=0.01)  # nothing is cut off


def test_clips_are_the_frames_of_their_scenes():
    moving = sample_motion(range(6), 2, False, WORLD)
    media, frames = moving.render(24, 24), moving.frames()
    assert media.shape == (6, 16, 3, 24, 24)
    error = (media.flatten(0, 1) - supersampled(frames, 24, 24)[:, 0]).abs()
    assert float(error.mean()) < 0.004
    at = moving.paths.at(WORLD.times)
    np.testing.assert_array_equal(frames.position.reshape(6, 16, 2, 2)[3, 5], at[3, :, :, 5])
    with pytest.raises(ValueError, match="another shape"):
        moving.render(24, 36)


def test_later_things_pass_in_front():
    moving = sample_motion(range(300), 2, False, WORLD)
    both = np.abs(moving.paths.at(WORLD.times)[:, 0] - moving.paths.at(WORLD.times)[:, 1]).max(1) < 0.08
    clip, frame = np.argwhere(both)[0]
    alone = replace(moving, scenes=replace(moving.scenes, **{
        name: getattr(moving.scenes, name)[:, 1:] for name in ("shape", "color", "size", "position", "velocity")}),
        action=moving.action[:, 1:], paths=replace(moving.paths, **{
            name: getattr(moving.paths, name)[:, 1:] for name in ("start", "position", "velocity", "acceleration",
                                                                  "wall")}))
    x, y = (moving.paths.at(WORLD.times)[clip, 1, :, frame] * 32).astype(int)
    assert torch.equal(moving.render()[clip, frame, :, y, x], alone.render()[clip, frame, :, y, x])


@pytest.mark.parametrize("objects", [1, 2])
@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_can_be_told(objects, held_out):
    """Speeds and bounces keep clear of what another word would say, and things can be seen."""
    moving = sample_motion(range(1500), objects, held_out, WORLD)
    assert (is_held_out_motion(kinds(moving), moving.action) == held_out).all()
    v, first, last = moving.scenes.velocity, moving.paths.first_bounce.min(-1), WORLD.times[-1]
    speed = np.hypot(v[..., 0], v[..., 1])
    for i, action in enumerate(ACTIONS):
        at = moving.action == i
        assert at.any()
        if action.heavy:
            assert moving.heavy[np.nonzero(at)[0]].all()
        if action.speed:
            low, high = SPEEDS[action.speed]
            assert ((speed[at] >= low) & (speed[at] <= high)).all()
            assert not moving.heavy[np.nonzero(at)[0]].any()
        if action.heavy and action.direction:
            sign = -1 if action.direction == "left" else 1
            assert ((sign * v[at][:, 0] >= SIDEWAYS[0]) & (sign * v[at][:, 0] <= SIDEWAYS[1])).all()
        if action.verb == "falls":
            assert (v[at][:, 1] == 0).all()
        if action.verb == "jumps":
            assert (v[at][:, 1] < -0.5).all()
        if action.verb == "stays":
            assert (speed[at] == 0).all()
            assert np.isinf(first[at]).all()
    bounces = moving.bounces
    assert 0.3 < bounces.mean() < 0.9
    assert (first[bounces] >= SOON).all()
    assert (first[bounces] <= last - SOON).all()
    assert (first[~bounces] > last + AFTER - 1e-9).all()
    at = moving.paths.at(WORLD.times)
    low, high = walls(moving.scenes.shape, moving.scenes.size, 1, 1)
    assert (at >= low[..., None] - 1e-9).all()
    assert (at <= high[..., None] + 1e-9).all()
    if objects == 2:
        assert (kinds(moving)[:, 0] != kinds(moving)[:, 1]).all()
        apart = (np.abs(at[:, 0] - at[:, 1]) - (low[:, 0] + low[:, 1])[..., None] > APART).any(1)
        assert apart[:, :ENDS].all()
        assert apart[:, -ENDS:].all()
        assert apart.mean(1).min() >= SEEN
        assert (~apart).any(1).mean() > 0.1  # and they do pass in front of each other


def kinds(moving):
    s = moving.scenes
    return (s.color * len(SHAPES) + s.shape) * len(SIZES) + s.size


@settings(max_examples=15, deadline=None)
@given(keys=st.lists(st.integers(0, 2**60), min_size=1, max_size=5), objects=st.integers(1, 2), held_out=st.booleans())
def test_a_moving_scene_is_a_function_of_its_key(keys, objects, held_out):
    together = sample_motion(keys, objects, held_out, WORLD)
    for i, key in enumerate(keys):
        alone = sample_motion([key], objects, held_out, WORLD)
        assert stories(alone)[0] == stories(together)[i]
        assert (alone.paths.at(WORLD.times)[0] == together.paths.at(WORLD.times)[i]).all()


def test_held_out_stories_are_never_trained_on():
    for objects in (1, 2):
        train, test = ({frozenset((c.thing, c.action) for c in story.clauses)
                        for story in stories(sample_motion(range(1500), objects, held_out, WORLD))}
                       for held_out in (False, True))
        assert not train & test
    a, b = np.array([[3, 17]]), np.array([[2, 9]])
    assert (is_held_out_motion(a, b) == is_held_out_motion(a[:, ::-1], b[:, ::-1])).all()
    many = np.arange(48 * len(ACTIONS))
    assert 0.07 < is_held_out_motion(many[:, None] % 48, many[:, None] // 48).mean() < 0.13


def test_stories_are_read_back():
    for objects in (1, 2):
        for story in stories(sample_motion(range(400), objects, False, WORLD)):
            assert parse_story(str(story)) == story
    small = Thing("small", "red", "circle")
    assert str(Story((Clause(small, Action("moves", "up left", "quickly"), True),))) == (
        "a small red circle moves up left quickly and bounces")
    two = "a small red circle falls and bounces while a large blue star stays"
    assert [c.bounces for c in parse_story(two).clauses] == [True, False]
    assert parse_story(two).things == (small, Thing("large", "blue", "star"))
    for wrong in ("", "a small red circle", "a small red circle moves right", "a red circle stays",
                  "a small red circle falls up", "a small red circle stays and", two + " while",
                  two.replace("while", "and")):
        with pytest.raises(ValueError, match="not a story"):
            parse_story(wrong)
    words = {w for caption in told() for w in caption.split()}
    assert {w for s in stories(sample_motion(range(1000), 2, True, WORLD)) for w in str(s).split()} <= words
    assert all(parse_story(caption) for caption in told())


def test_bounces_are_told_where_they_happen():
    """Against velocities seen from frame to frame, in fine steps."""
    fine = replace(WORLD, times=np.linspace(0, WORLD.times[-1], 400))
    moving = sample_motion(range(300), 1, False, WORLD)
    v = np.diff(moving.paths.at(fine.times)[:, 0], axis=-1)
    turned = (np.abs(v[..., 2:] - v[..., :-2]) > 4e-4).any((1, 2))  # gravity alone changes it by 5e-5
    assert [s.clauses[0].bounces for s in stories(moving)] == turned.tolist()


@pytest.mark.parametrize("spec", [Moving(), Moving(objects=2, fewest=1, frames=12, height=24, width=36, gravity="on"),
                                  Moving(frames=40, fps=24.0, gravity="off", restitution=1.0)], ids=str)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_source_keeps_its_contract(spec, split):
    source = spec.open(split)
    batch = source.batch([3, 1, 3, 2], [5, 6, 5, 1])
    assert batch.media.shape == (4, spec.frames, 3, spec.height, spec.width)
    assert float(batch.media.abs().max()) <= 1
    assert batch.text[0] == batch.text[2]
    assert torch.equal(batch.media[0], batch.media[2])
    assert torch.equal(spec.open(split).batch([1], [0]).media[0], batch.media[1])
    assert source.choose([3, 1, 3, 2], range(4))[1] == batch.text
    assert torch.equal(source.pictures([3, 1, 3, 2], [0] * 4), batch.media)
    assert sum(map(len, source.groups)) == len(source)
    told_of = [parse_story(text) for text in source.choose(range(80), range(80))[1]]
    heavy = [clause.action.heavy for story in told_of for clause in story.clauses]
    assert any(heavy) == (spec.gravity != "off")
    assert len(parse_story(source.batch([1], [1]).text[0]).clauses) == spec.numbers[1 % len(spec.numbers)]
    assert all(parse_story(prompt) for prompt in source.prompts())


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="fewest above objects"):
        Moving(objects=1, fewest=2)
    with pytest.raises(ValueError, match="nobody can tell what happens"):
        Moving(frames=8)
    assert (Moving(frames=12).frames - 1) / Moving(frames=12).fps >= SHORTEST
    for wrong in ({"restitution": 0.0}, {"g": 0.0}, {"objects": 3}, {"fps": 0.0}):
        with pytest.raises(ValueError, match="Input should be"):
            Moving(**wrong)
    recipe = RECIPES["moving"]()
    assert isinstance(recipe, Recipe)
    assert "data.g" not in without_effect(recipe)
    assert "data.g" in without_effect(replace(recipe, data=Moving(gravity="off")))

"""The universe against slow twins, and the oracle against what it must and must not read."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise.data.shapes import Shapes
from fromnoise.data.universe import (
    COLORS,
    RELATIONS,
    SHAPES,
    SIZES,
    Sentence,
    Thing,
    agrees,
    is_held_out,
    parse,
    read,
    render,
    sample_scenes,
    score,
    sentences,
    supersampled,
    vocabulary,
)
from fromnoise.data.universe.captions import kinds
from fromnoise.data.universe.render import BACKGROUND, DISTANCES, SQUARE, STAR, STAR_INNER, TRIANGLE
from fromnoise.data.universe.scene import EXTENT, MARGIN
from fromnoise.media import from_uint8, to_uint8


def pictures(count, objects, size=32, held_out=False):
    scenes = sample_scenes(np.arange(count), objects, held_out)
    return scenes, render(scenes, size, size), [str(s) for s in sentences(scenes)]


@pytest.mark.parametrize("objects", [1, 2, 3])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_render_equals_its_slow_twin(objects, size):
    scenes = sample_scenes(np.arange(24), objects, False)
    error = (render(scenes, *size) - supersampled(scenes, *size)).abs()
    assert float(error.mean()) < 0.004
    assert float((error > 0.2).float().mean()) < 0.004  # only the tips of stars and triangles


def polygon(shape, r):
    """Corners of a shape of radius r about its position, y downwards."""
    if shape == "square":
        return SQUARE * r * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    if shape == "triangle":
        angles, radii = 2 * np.pi * np.arange(3) / 3, TRIANGLE * r
    else:
        angles, radii = np.pi * np.arange(10) / 5, STAR * r * np.where(np.arange(10) % 2, STAR_INNER, 1)
    corners = np.stack([radii * np.sin(angles), -radii * np.cos(angles)], 1)
    corners[:, 1] -= (corners[:, 1].min() + corners[:, 1].max()) / 2  # the middle of the bounding box
    return corners


@pytest.mark.parametrize("shape", ["square", "triangle", "star"])
def test_distances_know_their_polygons(shape):
    from matplotlib.path import Path

    corners = polygon(shape, 5.0)
    x, y = (torch.rand(2, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 20
    distance = DISTANCES[SHAPES.index(shape)](x, y, torch.tensor(5.0, dtype=torch.float64)).numpy()
    inside = Path(np.concatenate([corners, corners[:1]]), closed=True).contains_points(torch.stack([x, y], 1).numpy())
    assert ((distance < 0) == inside).all()
    # To the nearest point of the outline; those of square and triangle are exact inside only.
    start, edge = corners, np.roll(corners, -1, 0) - corners
    offset = torch.stack([x, y], 1).numpy()[:, None] - start
    along = ((offset * edge).sum(-1) / (edge**2).sum(-1)).clip(0, 1)
    exact = np.linalg.norm(offset - along[..., None] * edge, axis=-1).min(1)
    where = np.ones_like(inside) if shape == "star" else inside
    np.testing.assert_allclose(np.abs(distance)[where], exact[where], atol=1e-6)


@pytest.mark.parametrize("objects", [1, 2, 3])
@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_keep_their_promises(objects, held_out):
    scenes = sample_scenes(np.arange(3000), objects, held_out)
    reach = (scenes.radius * EXTENT)[..., None]
    assert (scenes.position - reach).min() >= MARGIN - 1e-9
    assert (scenes.position + reach).max() <= 1 - MARGIN + 1e-9
    for i in range(objects):
        for j in range(i):
            apart = np.abs(scenes.position[:, i] - scenes.position[:, j]).max(-1)
            assert (apart >= (scenes.radius[:, i] + scenes.radius[:, j]) * EXTENT - 1e-9).all()
    for i in range(objects - 1):
        d = scenes.position[:, i] - scenes.position[:, i + 1]
        relation = scenes.relation[:, i]
        along = np.where(relation < 2, d[:, 1], d[:, 0])
        across = np.where(relation < 2, d[:, 0], d[:, 1])
        assert ((along < 0) == (relation % 2 == 0)).all()
        assert (np.abs(along) > 1.15 * np.abs(across)).all()


@settings(max_examples=30, deadline=None)
@given(keys=st.lists(st.integers(0, 2**60), min_size=1, max_size=8), objects=st.integers(1, 3))
def test_a_scene_is_a_function_of_its_key(keys, objects):
    together = sample_scenes(keys, objects, False)
    for i, key in enumerate(keys):
        alone = sample_scenes([key], objects, False)
        assert (alone.position[0] == together.position[i]).all()
        assert (alone.shape[0] == together.shape[i]).all()


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_held_out_captions_are_never_trained_on(objects):
    train, test = ({str(s) for s in sentences(sample_scenes(np.arange(20_000), objects, h))} for h in (False, True))
    assert not train & test
    words = {w for caption in train for w in caption.replace(",", "").split()}
    assert {w for caption in test for w in caption.replace(",", "").split()} <= words
    if objects == 2:
        for caption in list(test)[:300]:
            a, (b,) = parse(caption).things, parse(caption).relations
            turned = Sentence((a[1], a[0]), (RELATIONS[RELATIONS.index(b) ^ 1],))
            assert is_held_out(kinds(turned.things), np.array([RELATIONS.index(turned.relations[0])]))


def test_sentences_are_read_back():
    for objects in (1, 2, 3):
        for sentence in sentences(sample_scenes(np.arange(500), objects, False)):
            assert parse(str(sentence)) == sentence
    for wrong in ("", "a red circle", "a small red circle near a large blue square", "a small red", "nonsense"):
        with pytest.raises(ValueError):
            parse(wrong)
    words = {w for caption in vocabulary() for w in caption.split()}
    assert {*COLORS, *SHAPES, *SIZES, "above", "below", "left", "right", "which"} <= words


@pytest.mark.parametrize("objects", [1, 2, 3])
@pytest.mark.parametrize("size", [32, 64])
def test_oracle_reads_its_own_renders(objects, size):
    _, media, captions = pictures(1000 if size == 32 else 250, objects, size)
    assert score(media, captions)["all_correct"] >= 0.999


def jpeg(media, quality):
    """As people save it: colour at half the resolution."""
    frames = []
    for frame in to_uint8(media[:, 0]):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
        frames.append(np.asarray(Image.open(buffer)))
    return from_uint8(np.stack(frames))[:, None]


def blur(media, sigma):
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(media.numpy(), (0, 0, 0, sigma, sigma), mode="nearest"))


DAMAGE = {
    "noise": (lambda m: m + 0.05 * torch.randn(m.shape, generator=torch.Generator().manual_seed(0)), 0.995),
    "blur": (lambda m: blur(m, 0.7), 0.995),
    "jpeg 85": (lambda m: jpeg(m, 85), 0.985),
    "jpeg 75": (lambda m: jpeg(m, 75), 0.97),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("objects", [1, 2, 3])
def test_oracle_bears_mild_damage(kind, objects):
    change, least = DAMAGE[kind]
    _, media, captions = pictures(400, objects)
    assert score(change(media), captions)["all_correct"] >= least


def test_oracle_overlooks_faint_dust_but_no_more():
    _, media, _ = pictures(100, 1)
    faint, loud = media.clone(), media.clone()
    for row, column in ((0, 0), (0, 31), (31, 0), (31, 31)):  # the corners are always free
        faint[..., row, column] -= 0.3
        loud[..., row, column] = -1
        loud[..., min(row, 30) : min(row, 30) + 2, column] = -1
    assert not any(r.unclear for r in read(faint))
    assert all(r.unclear == "dust" for r in read(loud))


def test_oracle_calls_a_mess_unclear():
    _, media, captions = pictures(200, 2)
    ground = BACKGROUND.view(1, 1, 3, 1, 1).expand_as(media)
    for mess in (torch.zeros_like(media), ground, torch.randn_like(media), 0.5 * media + 0.5 * media.roll(1, 0)):
        assert score(mess, captions)["unclear"] >= 0.97
    assert score(ground.lerp(media, 0.5), captions)["unclear"] >= 0.9  # faded colours are no colours


def faults(size):
    """Pictures of one object in which something a person sees at once is wrong, from true ones."""
    scenes, media, captions = pictures(400, 1, size)
    ground = BACKGROUND.view(1, 1, 3, 1, 1).expand_as(media)
    turn = np.arange(len(scenes))[:, None]
    other_color = render(replace(scenes, color=(scenes.color + turn % 5 + 1) % 6), size, size)
    other_shape = render(replace(scenes, shape=(scenes.shape + turn % 3 + 1) % 4), size, size)
    other_size = render(replace(scenes, size=1 - scenes.size), size, size)
    x, y = (torch.from_numpy(scenes.position[:, 0, i]).float()[:, None, None] * size for i in (0, 1))
    ys, xs = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    radius = torch.from_numpy(scenes.radius[:, 0]).float()[:, None, None] * size
    left, top, hole = (
        m[:, None, None] for m in (xs < x, ys < y, (xs - x) ** 2 + (ys - y) ** 2 < (0.45 * radius) ** 2))
    return captions, {
        "half": torch.where(left, media, ground),
        "lower half": torch.where(top, ground, media),
        "quarter missing": torch.where(left & ~top, ground, media),
        "hole": torch.where(hole, ground, media),
        "two colours": torch.where(left, media, other_color),
        "two shapes": torch.where(left, media, other_shape),
        "shape on shape": 0.5 * media + 0.5 * other_shape,
        "size on size": 0.5 * media + 0.5 * other_size,
    }


@pytest.mark.parametrize("size", [32, 64])
def test_oracle_forgives_no_visible_fault(size):
    captions, cases = faults(size)
    for name, media in cases.items():
        readings = read(media)
        assert np.mean([not r.unclear for r in readings]) <= 0.06, name
        assert np.mean([agrees(r, c) for r, c in zip(readings, captions, strict=True)]) <= 0.04, name


def test_oracle_names_no_colour_for_a_mixture():
    """Halfway between two colours is neither of the two; it may be a third (red and yellow make orange)."""
    scenes = sample_scenes(np.arange(200), 1, False)
    other = replace(scenes, color=(scenes.color + np.arange(200)[:, None] % 5 + 1) % 6)
    readings = read(0.5 * render(scenes) + 0.5 * render(other))
    for reading, a, b in zip(readings, scenes.color[:, 0], other.color[:, 0], strict=True):
        assert reading.unclear or reading.objects[0].thing.color not in (COLORS[a], COLORS[b])
    assert np.mean([bool(r.unclear) for r in readings]) > 0.9


def test_a_reading_says_what_and_where():
    scenes, media, _ = pictures(100, 2, 64)
    for i, reading in enumerate(read(media)):
        assert reading.unclear is None
        (relation,) = reading.relations
        assert agrees(reading, Sentence(tuple(o.thing for o in reading.objects), (relation,)))
        for seen in reading.objects:
            k = [t == seen.thing for t in sentences(scenes)[i].things].index(True)
            np.testing.assert_allclose((seen.x, seen.y), scenes.position[i, k], atol=0.005)
            assert seen.confidence > 0.9
    noisy = read(media + 0.1 * torch.randn(media.shape, generator=torch.Generator().manual_seed(0)))
    assert np.mean([o.confidence for r in noisy for o in r.objects]) < 0.8
    assert read(media[:0]) == []


def test_oracle_is_not_fooled():
    """A picture agrees with its own caption and with no caption in which one word differs."""
    scenes, media, _ = pictures(60, 2)
    for reading, sentence in zip(read(media), sentences(scenes), strict=True):
        assert agrees(reading, sentence)
        a, b = sentence.things
        (relation,) = sentence.relations
        others = [r for r in RELATIONS if r != relation]
        assert not any(agrees(reading, Sentence((a, b), (r,))) for r in others)
        for part, values in (("shape", SHAPES), ("color", COLORS), ("size", SIZES)):
            for value in values:
                if value != getattr(a, part):
                    changed = Thing(**{**a.__dict__, part: value})
                    assert not agrees(reading, Sentence((changed, b), (relation,)))
        assert not agrees(reading, Sentence((a,)))
        assert agrees(reading, Sentence((b, a), (RELATIONS[RELATIONS.index(relation) ^ 1],)))


def test_source_draws_what_it_says():
    for objects in (1, 2, 3):
        batch = Shapes(objects=objects).open("test").batch(range(64), range(64))
        assert score(batch.media, batch.text)["all_correct"] == 1

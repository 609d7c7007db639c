"""The universe against slow twins, and the oracle against what it must and must not read."""

import io

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
from fromnoise.data.universe.render import BACKGROUND
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
    frames = []
    for frame in to_uint8(media[:, 0]):
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
        frames.append(np.asarray(Image.open(buffer)))
    return from_uint8(np.stack(frames))[:, None]


def blur(media):
    padded = torch.nn.functional.pad(media[:, 0], (1, 1, 1, 1), mode="replicate")
    return (0.5 * media[:, 0] + 0.5 * torch.nn.functional.avg_pool2d(padded, 3, 1))[:, None]


@pytest.mark.parametrize("change", [lambda m: m + 0.05 * torch.randn(m.shape), blur, lambda m: jpeg(m, 90)],
                         ids=["noise", "blur", "jpeg"])
def test_oracle_bears_mild_damage(change):
    _, media, captions = pictures(400, 2)
    assert score(change(media), captions)["all_correct"] >= 0.985


def test_oracle_calls_a_mess_unclear():
    _, media, captions = pictures(200, 2)
    ground = BACKGROUND.view(1, 1, 3, 1, 1).expand_as(media)
    for mess in (torch.zeros_like(media), ground, torch.randn_like(media), 0.5 * media + 0.5 * media.roll(1, 0)):
        assert score(mess, captions)["unclear"] >= 0.97
    assert score(ground.lerp(media, 0.5), captions)["unclear"] >= 0.9  # faded colours are no colours


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

"""Digits and glyphs: splits, captions, determinism."""

import numpy as np
import pytest
import torch

from fromnoise.data.digits import Digits
from fromnoise.data.glyphs import CHARACTERS, FAMILIES, STYLES, Glyphs, combinations
from fromnoise.data.shapes import Shapes

SPECS = [Digits(), Glyphs(), Shapes(), Shapes(objects=3, height=24, width=40)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.kind)
@pytest.mark.parametrize("split", ["train", "test"])
def test_sources_keep_their_contract(spec, split):
    source = spec.open(split)
    batch = source.batch([3, 1, 3], [5, 6, 5])
    assert batch.media.shape == (3, spec.frames, spec.channels, spec.height, spec.width)
    assert batch.media.dtype == torch.float32
    assert float(batch.media.min()) >= -1
    assert float(batch.media.max()) <= 1
    assert batch.text[0] == batch.text[2]
    torch.testing.assert_close(batch.media[0], batch.media[2], rtol=0, atol=0)
    again = spec.open(split).batch([1], [6])
    assert again.text[0] == batch.text[1]
    torch.testing.assert_close(again.media[0], batch.media[1], rtol=0, atol=0)
    assert sum(map(len, source.groups)) == len(source)
    assert all(isinstance(p, str) for p in source.prompts())


def test_digits_splits_are_stratified_disjoint_and_whole():
    train, test = Digits().open("train"), Digits().open("test")
    assert len(train) + len(test) == 1797
    shares = [np.bincount(s.labels) / len(s) for s in (train, test)]
    np.testing.assert_allclose(*shares, atol=0.005)
    assert {"a handwritten seven", "the digit 7"} <= {
        train.batch([int(np.flatnonzero(train.labels == 7)[0])], [k]).text[0] for k in range(8)}


@pytest.mark.parametrize("spec", [Digits(), Glyphs()], ids=lambda s: s.kind)
def test_captions_name_their_class(spec):
    source = spec.open("train")
    labels = {c: spec.label(c) for c in source.captions}
    sizes = [len(c) for c in spec.classes.values()]
    assert all(len(label) == len(sizes) and all(0 <= i < n for i, n in zip(label, sizes, strict=True))
               for label in labels.values())
    assert len(set(labels)) == len(source.captions)
    batch = source.batch(range(0, len(source), 37), range(0, len(source), 37))
    if spec.kind == "digits":
        assert [spec.label(t)[0] for t in batch.text] == source.labels[batch.index].tolist()
    else:
        assert [spec.label(t) for t in batch.text] == [source.combinations[i // source.variants] for i in batch.index]


def test_glyphs_hold_out_combinations_but_no_character_or_style():
    train, test = set(combinations("train")), set(combinations("test"))
    assert not train & test
    assert len(train | test) == len(CHARACTERS) * len(FAMILIES) * len(STYLES)
    assert 0.06 < len(test) / len(train | test) < 0.15
    for axis, size in ((0, len(CHARACTERS)), (1, len(FAMILIES)), (2, len(STYLES))):
        assert {c[axis] for c in train} == set(range(size))


def test_glyphs_differ_by_character_family_and_style():
    source = Glyphs().open("judge")
    mean = source.pixels.reshape(len(source.combinations), source.variants, -1).astype(float).mean(1)
    distance = ((mean[:, None] - mean[None]) ** 2).mean(-1) ** 0.5
    distance[np.diag_indices(len(mean))] = np.inf
    assert distance.min() > 4


def test_shapes_of_one_to_three_objects_take_turns():
    """The scenes of each number are those of data that hold this number alone, in any order and company."""
    mixed = Shapes(objects=3, fewest=1)
    for split in ("train", "test"):
        batch = mixed.open(split).batch([4, 0, 2, 1, 3, 4], range(6))
        for i, (index, media, text) in enumerate(zip(batch.index, batch.media, batch.text, strict=True)):
            alone = Shapes(objects=1 + index % 3).open(split).batch([index], [i])
            assert torch.equal(media, alone.media[0])
            assert text == alone.text[0]
    held_out = mixed.open("test")
    assert held_out.choose(range(9), range(9))[1] == held_out.batch(range(9), range(9)).text
    assert torch.equal(held_out.pictures(range(9), range(9)), held_out.batch(range(9), range(9)).media)
    assert list(Shapes().numbers) == list(Shapes(objects=2, fewest=2).numbers) == [2]
    with pytest.raises(ValueError, match="fewest above objects"):
        Shapes(objects=2, fewest=3)

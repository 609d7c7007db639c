"""What digits and glyphs promise the room that measures."""

import numpy as np
import pytest
import torch

from fromnoise.data.digits import Digits
from fromnoise.data.glyphs import CHARACTERS, FAMILIES, STYLES, VARIANTS, Glyphs, caption, combinations, look_alike

SANS, SERIF, MONO = (FAMILIES.index(f) for f in ("sans", "serif", "mono"))


def said(character: str, family: str, style: str = "plain") -> str:
    return caption((CHARACTERS.index(character), FAMILIES.index(family), STYLES.index(style)), 0)


def test_captions_read_as_english():
    assert said("Q", "serif", "bold italic") == "a bold italic serif letter Q"
    assert said("B", "sans", "italic") == "an italic sans letter B"
    assert said("7", "mono") == "a mono digit 7"


@pytest.mark.parametrize("spec", [Digits(), Glyphs()], ids=lambda s: s.kind)
def test_the_label_is_the_first_of_the_readings(spec):
    for text in spec.open("train").captions:
        readings = spec.readings(text)
        assert readings[0] == spec.label(text)
        assert len(set(readings)) == len(readings) <= 2


def test_sans_and_mono_are_interchangeable_only_where_they_look_alike():
    P, W = CHARACTERS.index("P"), CHARACTERS.index("W")
    assert Glyphs().readings(said("P", "sans")) == ((P, SANS, 0), (P, MONO, 0))
    assert Glyphs().readings(said("P", "mono")) == ((P, MONO, 0), (P, SANS, 0))
    assert Glyphs().readings(said("P", "serif")) == ((P, SERIF, 0),)
    assert Glyphs().readings(said("W", "mono")) == ((W, MONO, 0),)
    alike = sum(look_alike(c, s) for c in range(len(CHARACTERS)) for s in range(len(STYLES)))
    assert alike < 0.3 * len(CHARACTERS) * len(STYLES)  # the family is judged nearly everywhere


def test_no_two_drawings_that_must_be_told_apart_are_the_same():
    """Means over the drawings of a combination; those excused by ``look_alike`` are the nearest there are."""
    source = Glyphs().open("judge")
    mean = source.pixels.reshape(len(source.combinations), source.variants, -1).astype(float).mean(1)
    mean = dict(zip(source.combinations, mean, strict=True))
    gaps = {True: [], False: []}
    for c in range(len(CHARACTERS)):
        for s in range(len(STYLES)):
            gap = ((mean[c, SANS, s] - mean[c, MONO, s]) ** 2).mean() ** 0.5
            gaps[look_alike(c, s)].append(gap)
    assert np.median(gaps[True]) < 0.6 * np.median(gaps[False])


def test_the_yardstick_is_real_and_new():
    """Glyphs: the held-out combinations, drawn as no other split has drawn them.  Digits: the scans to train on."""
    drawn = {split: Glyphs().open(split) for split in VARIANTS}
    assert drawn["reference"].combinations == drawn["test"].combinations == combinations("test")
    assert len(drawn["test"]) >= 512  # as many real pictures as the recipe samples
    seen = {split: {p.tobytes() for p in source.pixels} for split, source in drawn.items()}
    for split in ("train", "test", "judge"):
        assert len(seen["reference"] & seen[split]) < 0.02 * len(seen["reference"])
    train, reference, test = (Digits().open(s) for s in ("train", "reference", "test"))
    assert torch.equal(train.media, reference.media)
    assert not {m.numpy().tobytes() for m in test.media} & {m.numpy().tobytes() for m in reference.media}


def test_judges_of_digits_never_see_what_models_are_trained_on():
    judge, test = Digits().open("judge"), Digits().open("test")
    assert torch.equal(judge.media, test.media)


@pytest.mark.parametrize("size", [16, 24, 48])
def test_glyphs_come_in_any_size(size):
    batch = Glyphs(size=size).open("test").batch([0, 5], [1, 2])
    assert batch.media.shape == (2, 1, 1, size, size)
    dark = (batch.media < 0).float().mean((1, 2, 3, 4))
    assert (dark > 0.03).all()
    assert (dark < 0.5).all()
    assert float(batch.media[..., 0, :].min()) > 0.9  # the border is blank: nothing is cut off

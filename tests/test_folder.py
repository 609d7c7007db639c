"""The user's own pictures: real photographs in every form people keep them in."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise.data.buckets import assign, bucket_sizes
from fromnoise.data.images import MAX_PIXELS, Refused, open_picture
from fromnoise.data.pictures import Folder, scan_folder
from fromnoise.types import UserError


@pytest.fixture(scope="session")
def photo():
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[0])


@pytest.fixture
def folder(tmp_path, photo):
    """Twelve crops of a photograph in three aspect ratios."""
    for i in range(12):
        w, h = [(160, 160), (200, 120), (120, 200)][i % 3]
        photo.crop((i * 20, i * 10, i * 20 + w, i * 10 + h)).save(tmp_path / f"crop{i:02}.jpg")
    return tmp_path


def mean_colour(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float).mean((0, 1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "gif", "JPG"])
def test_formats(tmp_path, photo, suffix):
    small = photo.resize((64, 48))
    small.save(tmp_path / f"a.{suffix}")
    opened = open_picture(tmp_path / f"a.{suffix}")
    assert (opened.mode, opened.size) == ("RGB", (64, 48))
    assert np.abs(mean_colour(opened) - mean_colour(small)).max() < 6


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA"])
def test_modes(tmp_path, photo, mode):
    small = photo.resize((64, 48))
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    small.convert(mode).save(path)
    opened = open_picture(path)
    assert opened.mode == "RGB"
    want = small.convert("L").convert("RGB") if mode in ("L", "LA", "1") else small
    assert np.abs(mean_colour(opened) - mean_colour(want)).max() < 12


def test_alpha_is_laid_on_white(tmp_path):
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert np.asarray(open_picture(tmp_path / "clear.png")).min() == 255
    half = Image.new("P", (16, 16), 0)
    half.putpalette([0, 0, 0, 255, 255, 255])
    half.save(tmp_path / "palette.png", transparency=0)
    assert np.asarray(open_picture(tmp_path / "palette.png")).min() == 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    got = np.asarray(open_picture(tmp_path / "deep.png"))[..., 0].astype(float)
    np.testing.assert_allclose(got, ramp / 257, atol=1)


def test_exif_rotation(tmp_path, photo):
    exif = Image.Exif()
    exif[274] = 6
    photo.resize((64, 48)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").size == (48, 64)


def test_damaged_files_are_counted_named_and_kept(folder, photo):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    data = (folder / "crop00.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (1, 4000)).save(folder / "thin.png")
    summary = Folder(root=str(folder), resolution=32).summary()
    reasons = dict(summary.skipped)
    assert set(reasons) == {"empty.png", "text.png", "cut.jpg", "thin.png"}
    assert "0x" not in " ".join(reasons.values())
    assert summary.pictures == 12
    assert any("skipped 4" in line for line in summary.lines())
    assert (folder / "empty.png").exists()


def test_bombs_are_refused_by_their_header(tmp_path):
    side = int(MAX_PIXELS**0.5) + 100
    Image.new("1", (side, side)).save(tmp_path / "bomb.png", optimize=True)
    with pytest.raises(Refused, match="million"):
        open_picture(tmp_path / "bomb.png")


def test_captions_from_text_files_tables_and_sub_folders(folder, photo):
    (folder / "crop00.txt").write_text("a temple\nan old temple\n")
    (folder / "golden_retriever").mkdir()
    photo.resize((64, 64)).save(folder / "golden_retriever" / "x.png")
    rows = [{"file_name": "crop01.jpg", "text": "blue sky"}, {"file_name": "../../etc/passwd", "text": "no"},
            {"file_name": "gone.jpg", "text": "no"}, {"text": "no"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{half")
    (folder / "metadata.csv").write_text("file_name,text\ncrop02.jpg,\"a roof, red\"\n")
    spec = Folder(root=str(folder), resolution=32, held_out=0)
    source, summary = spec.open("train"), spec.summary()
    text = {source.batch([i], [k]).text[0] for i in range(len(source)) for k in range(12)}
    assert text == {"a temple", "an old temple", "blue sky", "a roof, red", "golden retriever", ""}
    assert summary.captions == {"text files": 1, "metadata": 2, "sub-folders": 1, "none": 9}
    assert len(summary.skipped) == 4
    assert any("outside" in reason for _, reason in summary.skipped)


def test_hidden_files_and_links_that_lead_out_are_left_alone(folder, tmp_path_factory, photo):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    photo.resize((64, 64)).save(outside)
    (folder / "link.png").symlink_to(outside)
    photo.resize((64, 64)).save(folder / ".hidden.png")
    summary = Folder(root=str(folder), resolution=32).summary()
    assert summary.pictures == 12
    assert [name for name, _ in summary.skipped] == ["link.png"]


def test_splits_are_disjoint_whole_and_stable(folder):
    spec = Folder(root=str(folder), resolution=32, held_out=0.25)
    train, test = spec.open("train").members, spec.open("test").members
    assert sorted(train + test) == list(range(12))
    assert len(test) == 3
    scan_folder.cache_clear()
    assert spec.open("test").members == test


def test_pictures_keep_their_aspect_in_buckets(folder):
    source = Folder(root=str(folder), resolution=32, held_out=0).open("train")
    shapes = {source.batch(list(g), [0] * len(g)).media.shape[-2:] for g in source.groups}
    assert len(shapes) == 3
    assert all(h % 8 == 0 and w % 8 == 0 for h, w in shapes)
    square = Folder(root=str(folder), resolution=32, held_out=0, buckets=False).open("train")
    assert len(square.groups) == 1


def test_flip_mirrors_some(folder):
    specs = [Folder(root=str(folder), resolution=32, held_out=0, flip=flip) for flip in (False, True)]
    plain, flipped = (spec.open("train").batch([0] * 16, range(16)).media for spec in specs)
    same = [(a == b).all().item() for a, b in zip(plain, flipped, strict=True)]
    mirror = [(a == b.flip(-1)).all().item() for a, b in zip(plain, flipped, strict=True)]
    assert any(same)
    assert any(mirror)
    assert all(s or m for s, m in zip(same, mirror, strict=True))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(4, 4000), st.integers(4, 4000)), min_size=1, max_size=40),
       resolution=st.integers(8, 256), aspect=st.floats(1, 4))
def test_buckets_drop_nobody(sizes, resolution, aspect):
    choices = bucket_sizes(resolution, 8, aspect)
    chosen = assign(sizes, choices, fewest=4)
    assert len(chosen) == len(sizes)
    counts = {s: chosen.count(s) for s in set(chosen)}
    assert len(counts) == 1 or min(counts.values()) >= 4
    assert all(w % 8 == 0 and h % 8 == 0 for w, h in choices)


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda p: p / "none", "There is no folder"),
    (lambda p: p, "is empty"),
    (lambda p: (p / "notes.md").write_text("x") and p, "none is a picture"),
    (lambda p: (p / "a.png").write_text("x") and p, "can be used"),
    (lambda p: ((p / "a.png").write_text("x"), p / "a.png")[1], "is a file"),
])
def test_bad_folders_are_sentences(tmp_path, make, sentence):
    with pytest.raises(UserError, match=sentence):
        Folder(root=str(make(tmp_path))).open("train")


def test_one_picture_and_unicode_names(tmp_path, photo):
    photo.resize((64, 64)).save(tmp_path / "ключ 鍵.png")
    spec = Folder(root=str(tmp_path), resolution=32)
    assert len(spec.open("train")) == len(spec.open("test")) == 1

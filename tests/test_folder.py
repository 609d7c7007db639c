"""The user's own pictures: folders of real photographs as people have them, and folders that are wrong."""

import hashlib
import json
import os
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise.config import from_dict, to_dict
from fromnoise.data import pictures
from fromnoise.data.buckets import assign, bucket_sizes
from fromnoise.data.images import open_picture
from fromnoise.data.pictures import Folder, scan_folder
from fromnoise.types import UserError


@pytest.fixture(scope="session")
def photo():
    from sklearn.datasets import load_sample_images

    return Image.fromarray(load_sample_images().images[0])


@pytest.fixture(autouse=True)
def _forget_scans():
    """Tests write into folders that a scan of the same folder must not remember."""
    scan_folder.cache_clear()


@pytest.fixture
def folder(tmp_path, photo):
    """Twelve crops of a photograph in three aspect ratios."""
    for i in range(12):
        w, h = [(160, 160), (200, 120), (120, 200)][i % 3]
        photo.crop((i * 20, i * 10, i * 20 + w, i * 10 + h)).save(tmp_path / f"crop{i:02}.jpg")
    return tmp_path


def open_all(root, **fields):
    return Folder(root=str(root), resolution=32, held_out=0, **fields).open("train")


def captions_by_file(root, **fields) -> dict[str, tuple[str, ...]]:
    scan = open_all(root, **fields).scan
    return {f.as_posix(): c for f, c in zip(scan.files, scan.captions, strict=True)}


def reasons(root, **fields) -> dict[str, str]:
    return dict(Folder(root=str(root), resolution=32, **fields).summary().skipped)


def fingerprint(root) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


# ---- batches ---------------------------------------------------------------------------------------


def test_batches_are_media_of_one_group(folder):
    source = open_all(folder)
    for group in source.groups:
        batch = source.batch(group, range(len(group)))
        assert batch.media.shape[:3] == (len(group), 1, 3)
        assert batch.media.dtype == torch.float32
        assert -1 <= batch.media.min() < -0.5 < 0.5 < batch.media.max() <= 1
        assert batch.index == list(group)
        assert batch.text == [""] * len(group)


def test_pixels_are_those_of_the_file(folder):
    """In the right place, channel order and scale: a lossless picture of its bucket's own size comes back exactly."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    root = folder / "exact"
    root.mkdir()
    Image.fromarray(pixels).save(root / "a.png")
    media = open_all(root).batch([0], [0]).media[0, 0]
    np.testing.assert_array_equal(((media + 1) * 127.5).round().numpy().astype(np.uint8), pixels.transpose(2, 0, 1))


def test_pictures_keep_their_aspect_in_buckets(folder):
    source = open_all(folder)
    shapes = {tuple(source.batch(g, [0] * len(g)).media.shape[-2:]) for g in source.groups}
    assert len(shapes) == 3
    assert all(h % 8 == 0 and w % 8 == 0 for h, w in shapes)
    assert {h > w for h, w in shapes} == {True, False}
    square = open_all(folder, buckets=False)
    assert [len(g) for g in square.groups] == [12]
    assert square.batch([0, 1, 2], [0] * 3).media.shape[-2:] == (32, 32)


def test_a_batch_is_a_function_of_indices_and_keys(folder):
    (folder / "crop00.txt").write_text("one\ntwo\nthree")
    source = open_all(folder, flip=True)
    group = source.groups[0][:3]
    together = source.batch(group, [5, 6, 7])
    for row, (i, k) in enumerate(zip(group, [5, 6, 7], strict=True)):
        alone = source.batch([i], [k])
        assert torch.equal(alone.media[0], together.media[row])
        assert alone.text[0] == together.text[row]


def test_flip_mirrors_about_half(folder):
    plain = open_all(folder).batch([0] * 64, range(64)).media
    flipped = open_all(folder, flip=True).batch([0] * 64, range(64)).media
    same = [torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    mirror = [torch.equal(a, b.flip(-1)) for a, b in zip(plain, flipped, strict=True)]
    assert all(s != m for s, m in zip(same, mirror, strict=True))
    assert 16 < sum(mirror) < 48


@pytest.mark.parametrize("limit", [0, 3 * 32 * 32 * 5])
def test_pictures_decoded_on_demand_are_the_same(folder, monkeypatch, limit):
    kept = open_all(folder, buckets=False)
    assert all(p is not None for p in kept.scan.pixels)
    want = kept.batch(range(12), range(12)).media
    scan_folder.cache_clear()
    monkeypatch.setattr(pictures, "IN_MEMORY", limit)
    source = open_all(folder, buckets=False)
    assert sum(p is not None for p in source.scan.pixels) == limit // (3 * 32 * 32)
    assert torch.equal(source.batch(range(12), range(12)).media, want)
    (folder / "crop07.jpg").unlink()
    with pytest.raises(UserError, match=r"crop07\.jpg .* the file is missing"):
        source.batch(range(12), range(12))


# ---- splits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "apart"), [(0.25, 3), (0.01, 1), (0.99, 11), (0.0, 0)])
def test_splits_are_disjoint_whole_and_stable(folder, share, apart):
    spec = Folder(root=str(folder), resolution=32, held_out=share)
    train, test = spec.open("train"), spec.open("test")
    assert len(train) == 12 - apart
    assert train.held_out == test.held_out == (apart > 0)
    assert sorted(train.members + test.members) == list(range(12)) if apart else test.members == train.members
    scan_folder.cache_clear()
    assert spec.open("test").members == test.members


def test_the_split_goes_by_name_and_not_by_place(folder):
    """A new picture that sorts before all others moves no other to the other side, bar the last of the ranks."""
    spec = Folder(root=str(folder), resolution=32, held_out=0.25)

    def held_out() -> set[str]:
        source = spec.open("test")
        return {source.scan.files[m].name for m in source.members}

    before = held_out()
    (folder / "crop00.jpg").rename(folder / "zzz.jpg")
    scan_folder.cache_clear()
    assert len(before - held_out()) <= 1


def test_few_pictures_hold_none_out(tmp_path, photo):
    photo.resize((64, 64)).save(tmp_path / "ключ 鍵.png")
    spec = Folder(root=str(tmp_path), resolution=32)
    assert len(spec.open("train")) == len(spec.open("test")) == 1
    assert not spec.open("test").held_out
    assert spec.summary().held_out == 0


def test_names_that_differ_only_in_suffix_lie_on_one_side(folder, photo):
    for i in range(12):
        photo.resize((40, 40)).save(folder / f"crop{i:02}.png")
    source = Folder(root=str(folder), resolution=32, held_out=0.5).open("test")
    assert len(source) == 12
    assert set(Counter(source.scan.files[m].stem for m in source.members).values()) == {2}


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
def test_two_forms_of_one_picture_are_never_parted(folder, photo, share):
    """Pairs, of which an odd number of pictures to hold out would cut one."""
    for i in range(12):
        photo.resize((40, 40)).save(folder / f"crop{i:02}.png")
    for count in (24, 23):
        if count == 23:
            (folder / "crop05.png").unlink()
        scan_folder.cache_clear()
        sides = [Folder(root=str(folder), resolution=32, held_out=share).open(s) for s in ("train", "test")]
        train, test = ({s.scan.files[m].stem for m in s.members} for s in sides)
        assert not train & test
        assert train
        assert test
        assert len(sides[0]) + len(sides[1]) == count


# ---- captions --------------------------------------------------------------------------------------


def test_captions_from_text_files_tables_and_sub_folders(folder, photo):
    (folder / "crop00.txt").write_text("a temple\n\n  an old   temple \n")
    (folder / "golden_retriever").mkdir()
    photo.resize((64, 64)).save(folder / "golden_retriever" / "x.png")
    rows = [{"file_name": "crop01.jpg", "text": "blue sky"}, {"file_name": "crop00.jpg", "text": "not this one"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "metadata.csv").write_text('file_name,text\ncrop02.jpg,"a roof,\n red"\n')
    source = open_all(folder)
    text = {source.batch([i], [k]).text[0] for i in range(len(source)) for k in range(12)}
    assert text == {"a temple", "an old temple", "blue sky", "a roof, red", "golden retriever", ""}
    assert source.captions == sorted(text - {""})
    summary = source.spec.summary()
    assert summary.captions == {"text files": 1, "metadata": 2, "sub-folders": 1, "none": 9}
    assert summary.skipped == []
    assert any("9 without" in line and "2 from metadata" in line for line in summary.lines())


def test_prompts_are_the_commonest_captions(folder, photo):
    assert open_all(folder).prompts() == [""]
    scan_folder.cache_clear()
    for i in range(5):
        (folder / f"crop{i:02}.txt").write_text("a roof" if i else "a sky")
    assert open_all(folder).prompts() == ["a roof", "a sky"]


@pytest.mark.parametrize("data", [
    "été".encode(), b"\xef\xbb\xbf" + "été".encode(), "été".encode("utf-16"), "été".encode("cp1252"),
    b"\r\n \xc3\xa9t\xc3\xa9\x07\r\n",
])
def test_text_files_in_any_encoding(folder, data):
    (folder / "crop00.txt").write_bytes(data)
    assert captions_by_file(folder)["crop00.jpg"] == ("été",)


def test_text_files_by_any_name(folder):
    (folder / "crop00.TXT").write_text("upper case")
    (folder / "crop01.jpg.txt").write_text("both suffixes")
    (folder / "crop02.txt").write_text(" \n")
    (folder / "crop03.txt").write_bytes(b"x" * (2**20 + 1))
    found = captions_by_file(folder)
    assert [found[f"crop0{i}.jpg"] for i in range(4)] == [("upper case",), ("both suffixes",), (), ()]
    assert reasons(folder) == {"crop03.txt": "it is larger than 1 MB"}


@pytest.mark.parametrize("binary", [bytes(range(256)), bytes(256), "a roof".encode("utf-16-le")])
def test_a_text_file_that_is_binary_is_no_caption(folder, binary):
    (folder / "crop00.txt").write_bytes(binary)
    (folder / "metadata.jsonl").write_text('{"file_name": "crop00.jpg", "text": "a roof"}')
    assert captions_by_file(folder)["crop00.jpg"] == ("a roof",)
    assert reasons(folder) == {"crop00.txt": "it holds NUL bytes, so it is not a text"}


@pytest.mark.parametrize("table", [
    "file_name,text\ncrop00.jpg,a roof; red\n", 'file_name;text\ncrop00.jpg;"a roof; red"\n',
    'text;file_name\r\n"a roof; red";"crop00.jpg"\r\n', "file_name\ttext\ncrop00.jpg\ta roof; red\n",
    '\ufeff"file_name";"size, in MB";"text"\ncrop00.jpg;1,5;"a roof; red"\n', "text,file_name\na roof; red,crop00.jpg",
])
def test_tables_separated_as_spreadsheets_do(folder, table):
    (folder / "metadata.csv").write_text(table, encoding="utf-8")
    assert captions_by_file(folder)["crop00.jpg"] == ("a roof; red",)
    assert reasons(folder) == {}


def test_joined_emoji_and_scripts_survive(folder):
    (folder / "crop00.txt").write_text("👩‍🚀 می‌خواهم")
    assert captions_by_file(folder)["crop00.jpg"] == ("👩‍🚀 می‌خواهم",)


def test_several_rows_or_a_list_are_several_phrasings(folder):
    rows = [{"file_name": "crop00.jpg", "text": "a"}, {"file_name": "./crop00.jpg", "text": "b"},
            {"file_name": "crop00.jpg", "text": "a"}, {"file_name": "crop01.jpg", "text": ["c", "d"]},
            {"file_name": "crop02.jpg", "text": "\ud800broken"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = captions_by_file(folder)
    assert (found["crop00.jpg"], found["crop01.jpg"], found["crop02.jpg"]) == (("a", "b"), ("c", "d"), ("?broken",))


def test_rows_that_cannot_be_used_are_named(folder, photo):
    outside = folder.parent / "outside.png"
    photo.resize((32, 32)).save(outside)
    rows = ['{"file_name": "../outside.png", "text": "no"}',
            json.dumps({"file_name": str(folder / "crop00.jpg"), "text": "no"}),
            '{"file_name": "gone.jpg", "text": "no"}', '{"text": "no"}', "{half", "[" * 100_000, '"text"',
            '{"file_name": "crop01.jpg", "text": null}', '{"file_name": "a\\u0000b", "text": "no"}',
            '{"file_name": "", "text": "no"}', '{"file_name": "C:\\\\x.png", "text": "no"}',
            '{"file_name": "x/..\\\\crop01.jpg", "text": "no"}', '{"file_name": "crop02.jpg", "text": "yes"}']
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    found = reasons(folder)
    assert captions_by_file(folder)["crop02.jpg"] == ("yes",)
    assert {k.removeprefix("metadata.jsonl row "): v for k, v in found.items()} == {
        "1": "../outside.png leads upwards, which is not followed", "2": f"{folder}/crop00.jpg is an absolute path",
        "3": "gone.jpg is missing or not a picture", "4": "it needs file_name and text", "5": "it is damaged",
        "6": "it is damaged", "7": "it is damaged", "8": "it needs file_name and text",
        "9": "a\\x00b is missing or not a picture", "10": "it needs file_name and text",
        "11": "C:\\x.png is an absolute path",
        "12": "x/..\\crop01.jpg leads upwards, which is not followed",
    }


def test_a_table_with_other_columns_is_named_once_and_its_key_can_be_chosen(folder):
    rows = [{"file_name": f"crop{i:02}.jpg", "caption": "a roof"} for i in range(12)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = reasons(folder)
    assert list(found) == ["metadata.jsonl"]
    assert "caption, file_name" in found["metadata.jsonl"]
    assert "caption_key" in found["metadata.jsonl"]
    assert set(captions_by_file(folder, caption_key="caption").values()) == {("a roof",)}


def test_tables_in_sub_folders_and_names_spelled_otherwise(tmp_path, photo):
    (tmp_path / "train" / "Été").mkdir(parents=True)
    name = unicodedata.normalize("NFD", "été.png")
    photo.resize((32, 32)).save(tmp_path / "train" / "Été" / name)
    rows = [{"file_name": "Été\\" + unicodedata.normalize("NFC", "été.png"), "text": "summer"}]
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps(rows[0]))
    assert list(captions_by_file(tmp_path).values()) == [("summer",)]


def test_folders_that_name_nothing_are_passed_over(tmp_path, photo):
    for place in ("train/golden-retriever", "cats/images", "images"):
        (tmp_path / place).mkdir(parents=True)
        photo.resize((32, 32)).save(tmp_path / place / "x.png")
    want = {"train/golden-retriever/x.png": ("golden retriever",), "cats/images/x.png": ("cats",), "images/x.png": ()}
    assert captions_by_file(tmp_path) == want
    assert set(captions_by_file(tmp_path, folder_names=False).values()) == {()}


# ---- what is left out ------------------------------------------------------------------------------


def test_damaged_files_are_counted_named_and_kept(folder, capfd):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("not a picture")
    data = (folder / "crop00.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.new("RGB", (1, 4000)).save(folder / "thin.png")
    (folder / "phone.heic").write_bytes(b"ftypheic")
    before = fingerprint(folder)
    summary = Folder(root=str(folder), resolution=32).summary()
    found = dict(summary.skipped)
    assert set(found) == {"empty.png", "text.png", "cut.jpg", "thin.png", "phone.heic"}
    assert "JPEG or PNG" in found["phone.heic"]
    assert "0x" not in " ".join(found.values())
    assert (summary.pictures, summary.training, summary.held_out) == (12, 11, 1)
    assert "skipped 5:" in summary.lines()
    assert fingerprint(folder) == before
    assert capfd.readouterr() == ("", "")


def test_hidden_files_links_and_pipes(folder, tmp_path_factory, photo):
    """None of these is opened: a pipe would wait for ever, a link may show what was never meant to be shown."""
    outside = tmp_path_factory.mktemp("outside")
    photo.resize((64, 64)).save(outside / "secret.png")
    (outside / "secret.txt").write_text("secret")
    (folder / "link.png").symlink_to(outside / "secret.png")
    (folder / "crop00.txt").symlink_to(outside / "secret.txt")
    (folder / "there").symlink_to(outside)
    (folder / "self").symlink_to(folder)
    (folder / "broken.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "same.jpg").symlink_to(folder / "crop00.jpg")
    os.mkfifo(folder / "pipe.png")
    photo.resize((64, 64)).save(folder / ".hidden.png")
    (folder / ".cache").mkdir()
    photo.resize((64, 64)).save(folder / ".cache" / "x.png")
    summary = Folder(root=str(folder), resolution=32).summary()
    assert summary.pictures == 13
    assert set(summary.captions) == {"none"}
    out, followed = "it is a link that leads out of the folder", "it is a link to a folder, which is not followed"
    assert dict(summary.skipped) == {
        "link.png": out, "crop00.txt": out, "there": followed, "self": followed,
        "broken.png": "it is a broken link", "loop.png": "it is a broken link", "pipe.png": "it is not a plain file",
    }


def test_the_samples_of_a_run_are_not_data(folder, photo):
    """Training in a folder that holds its own runs must not feed on its previews, nor change when resumed."""
    run = folder / "runs" / "image"
    (run / "samples").mkdir(parents=True)
    for name in ("recipe.json", "metrics.jsonl"):
        (run / name).write_text("{}")
    photo.resize((64, 64)).save(run / "samples" / "x.png")
    assert reasons(folder) == {"runs/image": "it is the folder of a training run"}


def test_names_are_safe_to_print(folder):
    for name in (b"\x1b[31mred\n.png", b"\xff\xfe.png", b"[red].png"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"x")
    summary = Folder(root=str(folder), resolution=32).summary()
    assert {n for n, _ in summary.skipped} == {"\\x1b[31mred\\n.png", "\\udcff\\udcfe.png", "[red].png"}
    assert all(line.isprintable() for line in summary.lines())


def test_a_long_list_of_the_skipped_is_cut_in_the_text_only(folder):
    for i in range(30):
        (folder / f"bad{i:02}.png").write_bytes(b"")
    summary = Folder(root=str(folder), resolution=32).summary()
    assert len(summary.skipped) == 30
    assert summary.lines()[-1].strip() == "and 10 more"


def test_a_sub_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    (folder / "private").mkdir()
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path).endswith("private"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert reasons(folder) == {"private": "the folder cannot be read: Permission denied"}
    with pytest.raises(UserError, match=r"private cannot be read: Permission denied"):
        Folder(root=str(folder / "private")).open("train")


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda p: p / "none", r"There is no folder .*none\.$"),
    (lambda p: p, "is empty"),
    (lambda p: (p / "notes.md").write_text("x") and p, r"holds 1 file \(1 \.md\), but no picture"),
    (lambda p: (p / "a.png").write_text("x") and p, "None of the 1 picture files .* not a picture"),
    (lambda p: (p / "a.heic").write_text("x") and p, r"1 \.heic.* no picture that can be read"),
    (lambda p: ((p / "a.png").write_text("x"), p / "a.png")[1], "is a file"),
])
def test_bad_folders_are_one_sentence(tmp_path, make, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        Folder(root=str(make(tmp_path))).open("train")
    assert "\n" not in str(error.value)
    assert "0x" not in str(error.value)


# ---- the spec and its summary ----------------------------------------------------------------------


def test_the_spec_survives_json(folder):
    spec = Folder(root=str(folder), resolution=48, flip=True, caption_key="caption")
    assert from_dict(Folder, json.loads(json.dumps(to_dict(spec)))) == spec
    assert (spec.channels, spec.frames, spec.height, spec.width) == (3, 1, 48, 48)
    with pytest.raises(UserError, match="resolution"):
        from_dict(Folder, {"root": "x", "resolution": 2})


def test_summary_tells_sizes_and_buckets(folder):
    summary = Folder(root=str(folder), resolution=144).summary()
    assert Counter(summary.sizes) == {(160, 160): 4, (200, 120): 4, (120, 200): 4}
    assert summary.buckets == {(144, 144): 4, (184, 112): 4, (112, 184): 4}
    assert summary.enlarged == 0
    text = "\n".join(summary.lines())
    assert "120 to 200 wide" in text
    assert "    184x112       4" in summary.lines()
    assert Folder(root=str(folder), resolution=192).summary().enlarged == 12


# ---- buckets ---------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(4, 4000), st.integers(4, 4000)), min_size=1, max_size=60),
       resolution=st.integers(8, 512), multiple=st.sampled_from([1, 8, 16, 64]), aspect=st.floats(1, 8),
       fewest=st.integers(1, 9))
def test_buckets_drop_nobody_and_are_the_nearest(sizes, resolution, multiple, aspect, fewest):
    choices = bucket_sizes(resolution, max(multiple, resolution // 32), aspect)
    chosen = assign(sizes, choices, fewest)
    assert len(chosen) == len(sizes)
    assert set(chosen) <= set(choices)
    counts = Counter(chosen)
    assert len(counts) == 1 or min(counts.values()) >= fewest

    def far(size, bucket):
        return abs(np.log(size[0] / size[1]) - np.log(bucket[0] / bucket[1]))

    rivals = choices if fewest == 1 else list(counts)
    for size, bucket in zip(sizes, chosen, strict=True):
        assert far(size, bucket) <= min(far(size, rival) for rival in rivals) + 1e-9


@given(resolution=st.integers(8, 1024), multiple=st.sampled_from([8, 16, 32]), aspect=st.floats(1, 8))
def test_bucket_sizes_divide_and_have_about_one_area(resolution, multiple, aspect):
    sizes = bucket_sizes(resolution, multiple, aspect)
    assert sizes[0][0] == sizes[0][1]
    assert len(set(sizes)) == len(sizes)
    assert {(h, w) for w, h in sizes} == set(sizes)
    for w, h in sizes:
        assert w % multiple == h % multiple == 0
        assert min(w, h) > 0
        assert max(w / h, h / w) <= aspect * 1.01 or w == h
        assert abs(w * h - resolution**2) <= multiple * (max(w, h) + multiple) + multiple**2


@settings(max_examples=25, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(4, 90), st.integers(4, 90)), min_size=1, max_size=30),
       share=st.sampled_from([0.0, 0.1, 0.5]))
def test_every_picture_of_a_folder_is_in_exactly_one_group(tmp_path_factory, shapes, share):
    root = tmp_path_factory.mktemp("shapes")
    for i, (w, h) in enumerate(shapes):
        Image.new("RGB", (w, h), (i, 0, 0)).save(root / f"{i}.png")
    spec = Folder(root=str(root), resolution=16, held_out=share)
    train, test = spec.open("train"), spec.open("test")
    seen = Counter()
    for source in (train, test) if train.held_out else (train,):
        assert sorted(i for group in source.groups for i in group) == list(range(len(source)))
        for group in source.groups:
            media = source.batch(group, range(len(group))).media
            assert media.shape[-1] % 8 == media.shape[-2] % 8 == 0
            seen.update((media[:, 0, 0, 0, 0] + 1).mul(127.5).round().int().tolist())  # red is the picture's number
    assert seen == Counter(range(len(shapes)))


def test_opening_one_picture_and_a_folder_of_it_agree(folder):
    """The batch holds what the gate gives: a guard against a decoder that is fast and wrong."""
    media = open_all(folder, buckets=False).batch([0], [0]).media[0, 0]
    want = np.asarray(open_picture(folder / "crop00.jpg").resize((32, 32), Image.Resampling.LANCZOS), float)
    assert np.abs(((media + 1) * 127.5).numpy().transpose(1, 2, 0) - want).mean() < 2

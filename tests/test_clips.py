"""Folders of films as data: which clips are cut, what is refused, frames a second as a condition, single frames."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from test_films import encoded, numbered, numbers, sound

from fromnoise.config import from_dict, to_dict
from fromnoise.data import clips
from fromnoise.data.clips import Clips, scan_films
from fromnoise.data.wrapped import Stills
from fromnoise.films import PLAYED, write_film
from fromnoise.media import to_uint8
from fromnoise.nets import UNet, house
from fromnoise.random import DATA, fold
from fromnoise.recipe import Training, without_effect
from fromnoise.recipes import RECIPES, digits
from fromnoise.system import System
from fromnoise.text import Trained
from fromnoise.train import train
from fromnoise.train.latent_cache import training_source
from fromnoise.types import Batch, Condition, UserError
from fromnoise.weights import load_weights

SIZE = {"height": 16, "width": 24}


@pytest.fixture(autouse=True)
def _forget_scans():
    """Tests write into folders that a scan of the same folder must not remember."""
    scan_films.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """A film of 60 frames at 24 a second, one of 20 at 10, one of odd sides, and a GIF."""
    write_film(numbered(60), tmp_path / "long.mkv", 24, enlarge=1)
    write_film(numbered(20), tmp_path / "slow.mp4", 10, enlarge=2)
    write_film(numbered(40, 25, 37), tmp_path / "odd.mp4", 20, enlarge=1)
    write_film(numbered(30), tmp_path / "moving.gif", 12, enlarge=1)
    return tmp_path


def source_of(root, split="train", **fields):
    return Clips(root=str(root), **{**SIZE, "frames": 6, "fps": 0.0, "held_out": 0.0, **fields}).open(split)


def cut(source, name: str, keys) -> list[list[int]]:
    """The numbers on the frames of the clips that keys cut from a film."""
    i = [str(reel.file) for reel in source.reels].index(name)
    media = source.batch([i] * len(keys), keys).media
    return [numbers(clip) for clip in to_uint8(media)]


# ---- clips -----------------------------------------------------------------------------------------------


def test_a_clip_is_a_stretch_of_one_film_and_every_stretch_occurs(folder):
    source = source_of(folder)
    found = cut(source, "slow.mp4", range(200))
    assert all(clip == list(range(clip[0], clip[0] + 6)) for clip in found)
    assert {clip[0] for clip in found} == set(range(20 - 6 + 1))
    assert source.batch([0, 1, 2, 3], range(4)).media.shape == (4, 6, 3, 16, 24)


def test_clips_come_at_the_frames_a_second_that_are_asked_for(folder):
    source = source_of(folder, fps=8.0)
    found = cut(source, "long.mkv", range(300))
    assert all(clip == list(range(clip[0], clip[0] + 18, 3)) for clip in found)
    assert {clip[0] for clip in found} == set(range(60 - 15))
    steps = np.diff(cut(source, "odd.mp4", range(20)), axis=1)
    assert set(steps.flatten().tolist()) == {2, 3}
    twice = cut(source_of(folder, fps=20.0), "slow.mp4", range(20))
    assert all(clip[-1] - clip[0] in (2, 3) for clip in twice)


def test_a_variable_rate_is_cut_by_time(tmp_path):
    pts = [0, 100, 200, 300, 340, 410, 450, 510, 600, 700, 790, 900]  # milliseconds
    encoded(tmp_path / "variable.mp4", pts)
    found = cut(source_of(tmp_path, fps=10.0, frames=4), "variable.mp4", range(100))
    half = pts[-1] / 11 / 2  # of the time that a frame is shown on average
    wanted = {tuple(min(range(12), key=lambda j: abs(pts[j] - begin - 100 * k)) for k in range(4))
              for begin in pts if begin + 300 <= pts[-1] + half}
    assert set(map(tuple, found)) == wanted
    assert len(wanted) > 8


def test_a_batch_is_a_function_of_indices_and_keys(folder):
    source = source_of(folder, flip=True, fps=8.0)
    whole = source.batch([0, 1, 2, 3, 0], [5, 6, 7, 8, 9])
    scan_films.cache_clear()
    again = source_of(folder, flip=True, fps=8.0)
    for row, (i, key) in enumerate(zip([0, 1, 2, 3, 0], [5, 6, 7, 8, 9], strict=True)):
        assert torch.equal(again.batch([i], [key]).media[0], whole.media[row])
    assert not torch.equal(whole.media[0], whole.media[4])


def test_flip_mirrors_about_half(folder):
    plain, flipped = source_of(folder), source_of(folder, flip=True)
    a, b = plain.batch([2] * 60, range(60)).media, flipped.batch([2] * 60, range(60)).media
    mirrored = [torch.equal(x.flip(-1), y) and not torch.equal(x, y) for x, y in zip(a, b, strict=True)]
    same = [torch.equal(x, y) for x, y in zip(a, b, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 15 < sum(mirrored) < 45


@pytest.mark.parametrize("fps", [0.0, 8.0])
@pytest.mark.parametrize(("memory", "disk", "kinds"), [
    (0, 0, {"no"}), (60 * 16 * 24 * 3, 0, {"memory", "no"}), (60 * 16 * 24 * 3, 10**9, {"memory", "file"})])
def test_films_kept_in_files_and_decoded_on_demand_are_the_same(folder, fps, memory, disk, kinds, monkeypatch):
    indices, keys = [0, 1, 2, 3] * 5, range(20)
    kept = source_of(folder, fps=fps).batch(indices, keys).media
    scan_films.cache_clear()
    monkeypatch.setattr(clips, "IN_MEMORY", memory)
    monkeypatch.setattr(clips, "ON_DISK", disk)
    source = source_of(folder, fps=fps)
    names = {type(None): "no", np.memmap: "file", np.ndarray: "memory"}
    assert {names[type(reel.frames)] for reel in source.reels} == kinds
    assert torch.equal(source.batch(indices, keys).media, kept)


def test_a_film_that_goes_while_it_is_decoded_on_demand_is_a_sentence(folder, monkeypatch):
    monkeypatch.setattr(clips, "IN_MEMORY", 0)
    monkeypatch.setattr(clips, "ON_DISK", 0)
    source = source_of(folder)
    (folder / "slow.mp4").unlink()
    with pytest.raises(UserError, match=r"slow\.mp4 in .* was read before training started, but now it cannot be"):
        cut(source, "slow.mp4", [0])


def test_films_cover_the_size_and_are_cut_at_the_centre(tmp_path):
    wide = torch.full((8, 3, 32, 96), -1.0)
    wide[..., 32:64] = 1.0  # the middle third
    write_film(wide, tmp_path / "wide.mkv", 8, enlarge=1)
    media = source_of(tmp_path, height=32, width=32).batch([0], [0]).media
    assert media.min() > 0.99


def test_held_out_films_are_apart(tmp_path):
    for i in range(12):
        write_film(numbered(8, first=i), tmp_path / f"{i:02}.gif", 8, enlarge=1)
    train_, test = (source_of(tmp_path, split, held_out=0.25) for split in ("train", "test"))
    names = [{str(reel.file) for reel in source.reels} for source in (train_, test)]
    assert test.held_out
    assert not names[0] & names[1]
    assert (len(names[0]), len(names[1])) == (9, 3)


# ---- captions, and what is said of a folder --------------------------------------------------------------


def test_captions_come_as_those_of_pictures_or_one_for_all(folder):
    (folder / "long.txt").write_text("a long one\nthe longest")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "slow.mp4", "text": "a slow one"}))
    (folder / "waves").mkdir()
    (folder / "odd.mp4").rename(folder / "waves" / "odd.mp4")
    source = source_of(folder, caption="a film")
    said = {str(reel.file): reel.captions for reel in source.reels}
    assert said == {"long.mkv": ("a long one", "the longest"), "slow.mp4": ("a slow one",), "waves/odd.mp4": ("waves",),
                    "moving.gif": ("a film",)}
    i = list(said).index("long.mkv")
    assert set(source.batch([i] * 40, range(40)).text) == {"a long one", "the longest"}
    assert set(source.prompts()) == {"a long one", "a slow one", "waves", "a film"}


def test_the_summary_names_everything_that_was_skipped(folder, capfd):
    (folder / "text.mp4").write_text("not a film")
    (folder / "half.mkv").write_bytes((folder / "long.mkv").read_bytes()[:200])
    (folder / "old.wmv").touch()
    sound(folder / "sound.mp4")
    write_film(numbered(3), folder / "short.mp4", 8, enlarge=2)
    (folder / "still.gif").write_bytes(b"")
    spec = Clips(root=str(folder), **SIZE, frames=6, fps=15.0, held_out=0.0)
    text = spec.summary().lines()
    assert text[0].startswith("4 films in ")
    assert "2.0 to 2.5 seconds; 10 to 24 frames a second" in text[1]
    assert "2 of the films are slower, and some of their frames are there twice" in text[2]
    skipped = dict(spec.open("train").scan.skipped)
    assert skipped.keys() == {"text.mp4", "half.mkv", "old.wmv", "sound.mp4", "short.mp4", "still.gif"}
    assert skipped["short.mp4"] == "3 frames in 0.38 s are too short for a clip of 6 frames at 15 a second"
    assert skipped["text.mp4"] == "it is no film, or its beginning is damaged"
    assert skipped["sound.mp4"] == "it holds no pictures, only sound"
    assert "save it as MP4" in skipped["old.wmv"]
    assert "skipped 6:" in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("make", "words"), [
    (lambda f: "", "Which folder are the films in? Add --data"),
    (lambda f: f / "gone", "There is no folder"),
    (lambda f: f, "is empty: MP4, MOV, MKV"),
    (lambda f: (f / "a.txt").write_text("x") and f, "but no film that can be read: MP4"),
    (lambda f: (f / "a.mp4").write_text("x") and f, "None of the 1 film files in"),
    (lambda f: write_film(numbered(4), f / "a.mp4", 8).parent, "4 frames in 0.50 s are too short for a clip of 6"),
    (lambda f: write_film(numbered(4), f / "a.mp4", 8), "give the folder that holds the films"),
])
def test_bad_folders_are_one_sentence(make, words, tmp_path):
    with pytest.raises(UserError) as refused:
        source_of(make(tmp_path))
    assert words in str(refused.value)


@pytest.mark.parametrize("fields", [{"fps": -1}, {"frames": 0}, {"height": 4}, {"speed": 2}])
def test_bad_fields_are_refused_by_name(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        from_dict(Clips, {"kind": "clips", "root": "x", **fields})


def test_a_path_alone_is_of_the_kind_that_is_there():
    from fromnoise.cli.train import resolve

    recipe, _, _ = resolve(["video", "--data", "./films", "--data.frames", "4"])
    assert (recipe.data.kind, recipe.data.root, recipe.data.frames) == ("clips", "./films", 4)
    assert resolve(["image", "--data", "./films"])[0].data.kind == "folder"


# ---- frames a second -------------------------------------------------------------------------------------


def test_batches_say_frames_a_second(folder):
    assert source_of(folder, fps=8.0).batch([0, 1], [0, 0]).fps.tolist() == [8, 8]
    own = source_of(folder)
    names = [str(reel.file) for reel in own.reels]
    rates = dict(zip(names, own.batch(range(4), range(4)).fps.tolist(), strict=True))
    assert rates == pytest.approx({"long.mkv": 24, "slow.mp4": 10, "odd.mp4": 20, "moving.gif": 12}, rel=5e-3)


def told_network(kind: str):
    """A network that is told frames a second, and the same without, both with the same weights at random."""
    if kind == "unet":
        specs = [UNet(width=8, multipliers=(1, 2), fps=told) for told in (True, False)]
    else:
        plain = house(width=32, depth=2, positions="rotary")
        specs = [replace(plain, time=replace(plain.time, numbers="fps")), plain]
    nets = [spec.build(3, 16) for spec in specs]
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in nets[0].parameters():
            p.copy_(torch.randn(p.shape, generator=random) * 0.1)
    left = nets[1].load_state_dict(nets[0].state_dict(), strict=False)
    assert not left.missing_keys
    assert left.unexpected_keys
    return nets


@pytest.mark.parametrize("kind", ["trunk", "unet"])
def test_a_network_is_told_frames_a_second_where_it_is_set_so(kind):
    told, plain = told_network(kind)
    x, t, text = torch.randn(2, 3, 3, 16, 16), torch.rand(2, 3), torch.randn(2, 4, 16)

    def answer(net, fps):
        with torch.no_grad():
            return net(x, t, Condition(text=text, fps=None if fps is None else torch.tensor(fps)))

    both = answer(told, [8.0, 24.0])
    assert not torch.allclose(both[0], answer(told, [24.0, 24.0])[0], atol=1e-3)
    torch.testing.assert_close(both[1], answer(told, [24.0, 24.0])[1])
    assert torch.equal(answer(plain, [8.0, 24.0]), answer(plain, None))
    assert torch.equal(answer(told, None), answer(plain, None))


def test_pictures_have_no_frames_a_second():
    recipe = replace(digits(), net=UNet(width=8, multipliers=(1, 2), fps=True))
    with pytest.raises(UserError, match="its data are pictures"):
        System(recipe, recipe.text.learn_tokenizer(["a"]))
    assert "train.stills" in without_effect(digits())
    assert digits().fps == 0
    clips_ = RECIPES["video"]()
    assert (clips_.fps, replace(clips_, data=Clips(root="x", fps=0.0)).fps) == (8, PLAYED)
    assert replace(clips_, data=Clips(root="x", frames=1)).fps == 0


# ---- single frames among films ---------------------------------------------------------------------------


def test_a_share_of_the_batches_are_single_frames_of_the_same_clips(folder):
    films = source_of(folder, fps=8.0)
    mixed = Stills(films, 0.4)
    kinds = []
    for step in range(200):
        keys = fold(3, DATA, step, range(4)).tolist()
        batch, whole = mixed.batch([0, 1, 2, 3], keys), films.batch([0, 1, 2, 3], keys)
        assert batch.text == whole.text
        kinds.append(batch.media.shape[1])
        if kinds[-1] == 6:
            assert torch.equal(batch.media, whole.media)
            assert torch.equal(batch.fps, whole.fps)
        else:
            assert batch.fps.tolist() == [0] * 4
            assert all(any(torch.equal(a[0], frame) for frame in b)
                       for a, b in zip(batch.media, whole.media, strict=True))
    assert set(kinds) == {1, 6}
    assert 0.28 < kinds.count(1) / 200 < 0.52


def recipe_of(root, **training):
    settings = {"steps": 8, "batch": 4, "threads": 1, "checkpoint_every": 4, "preview_every": 0, "stills": 0.5}
    net = house(width=16, heads=2, depth=1, positions="rotary")
    return replace(RECIPES["video"](), data=Clips(root=str(root), height=16, width=16, frames=4, held_out=0.0),
                   text=Trained(width=16, max_length=16), net=replace(net, time=replace(net.time, numbers="fps")),
                   train=Training(**settings | training))


def test_training_sees_films_and_single_frames_which_are_those_of_the_step(folder, tmp_path_factory, monkeypatch):
    from fromnoise.train.methods import Diffusion

    seen, loss, at = {}, Diffusion.loss, tmp_path_factory.mktemp("runs")

    def look(self, batch: Batch, seed: int, step: int):
        seen[step] = (tuple(batch.media.shape[:2]), batch.fps.tolist())
        return loss(self, batch, seed, step)

    monkeypatch.setattr(Diffusion, "loss", look)
    train(recipe_of(folder), at / "whole")
    assert {frames for (_, frames), _ in seen.values()} == {1, 4}
    assert all(fps == ([0.0] * 4 if frames == 1 else [8.0] * 4) for (_, frames), fps in seen.values())
    first = dict(seen)
    seen.clear()
    train(recipe_of(folder, steps=4), at / "parts")
    train(recipe_of(folder), at / "parts")
    assert seen == first


def test_a_stopped_run_goes_on_bit_for_bit(folder, tmp_path_factory, monkeypatch):
    from fromnoise.train import Hooks, loop

    at = tmp_path_factory.mktemp("runs")
    train(recipe_of(folder), at / "whole")

    class Stop(Exception):
        pass

    save = loop.Trainer.save

    def stop(self):
        save(self)
        if self.step == 4:
            raise Stop

    monkeypatch.setattr(loop.Trainer, "save", stop)
    with pytest.raises(Stop):
        train(recipe_of(folder), at / "parts")
    monkeypatch.setattr(loop.Trainer, "save", save)
    said = []
    train(recipe_of(folder), at / "parts", Hooks(message=said.append))
    assert "Going on from step 4" in said[0]
    a, b = (load_weights(at / name)[0] for name in ("whole", "parts"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_without_stills_the_source_is_what_it_was(folder):
    assert isinstance(training_source(recipe_of(folder)), Stills)
    assert not isinstance(training_source(recipe_of(folder, stills=0.0)), Stills)
    assert training_source(recipe_of(folder)).versions == 0
    assert to_dict(Training())["stills"] == 0


# ---- samples ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root, out = tmp_path_factory.mktemp("films"), tmp_path_factory.mktemp("runs") / "video"
    for i, name in enumerate(("up", "down")):
        write_film(numbered(20, first=i), root / f"{name}.gif", 10, enlarge=1)
        (root / f"{name}.txt").write_text(f"numbers going {name}")
    scan_films.cache_clear()
    train(recipe_of(root, steps=20), out)
    return out


@pytest.fixture(scope="module")
def model(run):
    from fromnoise import load

    found = load(run)
    with torch.no_grad():  # weights that start at zero would hide faults
        for p in found.system.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return found


def test_sampling_is_told_frames_a_second(model):
    prompts = ["numbers going up"] * 2
    usual, same, other = (model.sample(prompts, steps=3, guidance=2.0, fps=fps) for fps in (None, 8, 24))
    assert usual.media.shape == (2, 4, 3, 16, 16)
    assert torch.equal(usual.media, same.media)
    assert not torch.allclose(usual.media, other.media, atol=1e-4)
    assert (usual.settings.fps, other.settings.fps) == (8.0, 24.0)
    alone = model.sample(prompts[:1], steps=3, guidance=2.0, first=1)
    torch.testing.assert_close(alone.media[0], usual.media[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("fps", "words"), [(0, "fps must be above 0"), (-8, "fps must be a number of frames a second"),
                                            ("fast", "fps must be"), (float("inf"), "fps must be")])
def test_bad_rates_are_sentences(fps, words, model):
    with pytest.raises(UserError, match=words):
        model.sample("numbers", steps=1, fps=fps)


@pytest.mark.parametrize("suffix", [".png", ".mp4", ".gif", ".webp", ".mkv"])
def test_every_kind_of_file_says_how_it_was_made(suffix, model, tmp_path):
    from fromnoise.films import read_film
    from fromnoise.output import read_picture

    output = model.sample(["numbers going up", "größer ☂"], steps=2, seed=3, fps=12)
    path = output.save(tmp_path / f"a{suffix}", enlarge=2)
    told = read_picture(path)
    assert told["settings"] == output.settings
    assert told["recipe"]["data"]["kind"] == "clips"
    if suffix == ".png":
        with Image.open(path) as image:
            assert image.size == (2 * (4 * 18 - 2), 2 * (2 * 18 - 2))
            pixels = np.asarray(image)[::2, ::2]
        assert (pixels[18:, 3 * 18 :][:16, :16] == to_uint8(output.media)[1, 3]).all()
    else:
        film = read_film(path)
        assert film.frames.shape == (4, 2 * 16, 2 * 34, 3)
        assert film.fps == pytest.approx(12, rel=0.02)
        difference = np.abs(film.frames[:, ::2, ::2][:, :, :16].astype(int) - to_uint8(output.media)[0])
        assert difference.max() == 0 if suffix in (".mkv", ".webp") else difference.mean() < 20


def test_images_of_films_are_their_strips(model):
    assert [image.size for image in model.sample(["a"] * 2, steps=1).images()] == [(4 * 18 - 2, 16)] * 2


def test_films_from_the_command_line_and_again(run, tmp_path, capsys):
    from fromnoise.cli import main

    film, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    asked = ["numbers going up", "--n", "2", "--fps", "12", "--steps", "2", "--out", str(film)]
    assert main(["sample", str(run), *asked]) == 0
    assert main(["sample", "--like", str(film), "--out", str(again)]) == 0
    assert again.read_bytes() == film.read_bytes()
    capsys.readouterr()
    assert main(["sample", str(run), "numbers going up", "--n", "1", "--steps", "2"]) == 0
    printed = capsys.readouterr().out.split()
    assert [path.rsplit("/", 1)[1] for path in printed] == ["sample-0001.png", "sample-0001.gif"]
    for name, words in (("a.avi", "--out is a .png file"), ("a.jpg", "--out is a .png file")):
        assert main(["sample", str(run), "x", "--out", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    assert main(["sample", str(run), "x", "--fps", "0"]) == 2
    assert "fps" in capsys.readouterr().err


def test_pictures_are_not_saved_as_films_and_films_not_as_jpeg(model, tmp_path):
    from fromnoise.output import checked_file

    with pytest.raises(UserError, match=r"Samples are saved as \.png"):
        checked_file(tmp_path / "a.mp4", films=False)
    with pytest.raises(UserError, match=r"Films are saved as \.mp4, \.mkv, \.gif, \.webp, or as a contact sheet"):
        model.sample("a", steps=1).save(tmp_path / "a.jpg")


def test_latents_of_clips_are_not_kept(run, tmp_path):
    from fromnoise.latents import KL
    from fromnoise.workflow import encode_data

    recipe = replace(recipe_of(tmp_path), latents=KL())
    write_film(numbered(8), tmp_path / "a.gif", 8, enlarge=1)
    with pytest.raises(UserError, match="Every step cuts its own clips of films"):
        encode_data(recipe, tmp_path / "cache", tmp_path)


# ---- the page --------------------------------------------------------------------------------------------


def test_a_page_shows_films_that_move_and_their_frames():
    import base64
    import io

    from fromnoise.studio import FilmFrame, Showcase, render_page

    grid = torch.stack([numbered(5, 16, 24, first=i) for i in range(4)]).unflatten(0, (2, 2))
    moment = FilmFrame(0.5, grid[0, 0], grid[0, 1])
    page = render_page("films", [Showcase(name="v", prompts=["one", "two"], grid=grid, fps=10.0, real=grid[0],
                                          real_captions=["a", "b"], film=[moment, moment],
                                          previews=[(10, grid[1])], preview_prompts=["one", "two"])])
    assert "Frame by frame" in page
    assert "From noise to film" in page
    assert "0.40</span>" in page
    start = page.index("data:image/webp;base64,") + len("data:image/webp;base64,")
    with Image.open(io.BytesIO(base64.b64decode(page[start : page.index('"', start)]))) as image:
        assert image.n_frames == 5
        frames = []
        for i in range(5):
            image.seek(i)
            image.load()
            assert image.info["duration"] == 100
            frames.append(np.asarray(image.convert("RGB")))
    assert (np.stack(frames) == to_uint8(grid[0, 0])).all()


def test_a_page_of_pictures_has_no_films():
    from fromnoise.studio import Showcase, render_page

    page = render_page("pictures", [Showcase(name="v", prompts=["one"], grid=torch.zeros(1, 2, 1, 3, 8, 8))])
    assert "Frame by frame" not in page
    assert "Every picture began" in page


@pytest.mark.long
def test_a_folder_of_films_end_to_end(tmp_path):
    """Four films and a file that is none: training with previews, a page, a resume that finds nothing to do."""
    from fromnoise.generate import load
    from fromnoise.recipe import Evaluation
    from fromnoise.workflow import read_previews, train_run

    root = tmp_path / "films"
    for i in range(4):
        (root / str(i)).mkdir(parents=True)
        write_film(numbered(30, 24, 24 + i, first=i), root / str(i) / "film.mp4", 8 + i, enlarge=1)
    (root / "broken.mp4").write_text("broken")
    recipe = replace(recipe_of(root, steps=30, preview_every=15), evaluate=Evaluation(samples=4))
    said = Console(record=True, file=open("/dev/null", "w"), width=200)  # noqa: SIM115
    showcase = train_run(recipe, tmp_path / "run", "fromnoise train video", said)
    assert "broken.mp4: it is no film" in said.export_text()
    assert sorted(showcase.prompts) == ["0", "1", "2", "3"]
    assert showcase.grid.shape == (4, 4, 4, 3, 16, 16)
    names = {path.name for path in (tmp_path / "run" / "samples").iterdir()}
    assert names == {f"{stem}{kind}" for stem in ("grid", "step-000000", "step-000015", "step-000030")
                     for kind in (".png", ".gif")}
    model = load(tmp_path / "run")
    previews = read_previews(model, tmp_path / "run")
    assert [(step, tuple(media.shape)) for step, media in previews] == [(s, (4, 4, 3, 16, 16)) for s in (0, 15, 30)]
    made = model.sample(list(showcase.preview_prompts), seed=0).media
    torch.testing.assert_close(previews[-1][1], made, atol=1 / 127, rtol=0)
    again = train_run(recipe, tmp_path / "run", "fromnoise train video", Console(quiet=True))
    assert again.report == showcase.report
    assert "Frame by frame" in (tmp_path / "run" / "index.html").read_text()
    assert "text-to-video" in (tmp_path / "run" / "README.md").read_text()

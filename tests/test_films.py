"""Films as files: frame-exact there and back, by the times at which frames are shown, and files that are wrong."""

import builtins
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise import films
from fromnoise.films import (
    NotAFilm,
    contact_sheet,
    durations,
    film_facts,
    frames_of,
    read_comment,
    read_film,
    strip,
    write_film,
)
from fromnoise.media import enlargement, to_uint8
from fromnoise.types import UserError

BITS = 6


def numbered(count: int, height: int = 24, width: int = 36, first: int = 0) -> torch.Tensor:
    """``[T, 3, H, W]``: frame i holds i + first in bits, each a bright or a dark column."""
    media = torch.full((count, 3, height, width), -0.5)
    for i in range(count):
        for bit in range(BITS):
            if (i + first) >> bit & 1:
                media[i, :, :, bit * width // BITS : (bit + 1) * width // BITS] = 0.7
    return media


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers that frames ``[T, H, W, 3]`` of ``numbered`` hold, whatever their size and coding."""
    width = frames.shape[2]
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    bright = frames[:, frames.shape[1] // 2, centres].mean(-1) > 128
    return [int(sum(1 << bit for bit in range(BITS) if row[bit])) for row in bright]


def encoded(path: Path, pts: list[int], codec: str = "libx264", base: Fraction = Fraction(1, 1000), **options) -> Path:
    """A video of numbered frames that are shown at these times, in units of ``base``."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options={str(k): str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = 72, 48, "yuv420p"
        stream.codec_context.time_base = base
        for frame, at in zip(to_uint8(numbered(len(pts), 48, 72)), pts, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = at, base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


# ---- there and back --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", films.WRITTEN)
@pytest.mark.parametrize("fps", [8, 12.5, 29.97])
def test_every_frame_comes_back_in_its_place_and_time(suffix, fps, tmp_path):
    path = write_film(numbered(40), tmp_path / f"film{suffix}", fps)
    film = read_film(path)
    assert numbers(film.frames) == list(range(40))
    assert film.fps == pytest.approx(fps, rel=2e-3)
    assert np.abs(film.times - np.arange(40) / fps).max() < (0.0051 if suffix == ".gif" else 0.001)
    facts = film_facts(path)
    assert (facts.frames, facts.height, facts.width) == film.frames.shape[:3] == (40, 24 * 5, 36 * 5)
    assert facts.seconds == pytest.approx(40 / fps, abs=0.02)
    assert film.media.shape == (40, 3, 120, 180)


@pytest.mark.parametrize("suffix", [".mkv", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_exact_kinds_keep_every_pixel_of_any_size(suffix, channels, tmp_path):
    media = torch.rand(5, channels, 17, 23, generator=torch.Generator().manual_seed(1)) * 2 - 1
    film = read_film(write_film(media, tmp_path / f"film{suffix}", 10, enlarge=1))
    assert (film.frames == to_uint8(media)).all()


def test_mp4_is_close_and_repeats_the_last_of_odd_sides(tmp_path):
    smooth = torch.linspace(-0.9, 0.9, 21).expand(4, 3, 17, 21).clone()
    film = read_film(write_film(smooth, tmp_path / "film.mp4", 10, enlarge=1))
    assert film.frames.shape[1:3] == (18, 22)
    difference = np.abs(film.frames[:, :17, :21].astype(int) - to_uint8(smooth).astype(int))
    assert difference.max() <= 8
    assert np.abs(film.frames[:, 17].astype(int) - film.frames[:, 16].astype(int)).max() <= 8


def test_a_gif_has_one_palette_and_keeps_few_colours_exactly(tmp_path):
    film = read_film(write_film(numbered(40), tmp_path / "film.gif", 8, enlarge=1))
    assert (film.frames == to_uint8(numbered(40))).all()


def test_small_films_are_enlarged_to_be_seen(tmp_path):
    film = read_film(write_film(numbered(2), tmp_path / "film.mkv", 8))
    factor = enlargement(24)
    assert (film.frames[:, ::factor, ::factor] == to_uint8(numbered(2))).all()


@pytest.mark.parametrize("suffix", films.WRITTEN)
def test_a_comment_is_kept(suffix, tmp_path):
    comment = '{"prompt": "ein größeres ☂", "long": "' + "x" * 3000 + '"}'
    assert read_comment(write_film(numbered(3), tmp_path / f"film{suffix}", 8, comment=comment)) == comment
    assert read_comment(write_film(numbered(3), tmp_path / f"plain{suffix}", 8)) == ""


@pytest.mark.parametrize("name", ["take: 1 %03d.mp4", "-dash.mkv", "ünï.MP4", "a:b.webp"])
def test_any_name_is_a_plain_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert numbers(read_film(write_film(numbered(3), name, 8)).frames) == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@given(st.integers(1, 300), st.floats(0.5, 60))
@settings(deadline=None)
def test_whole_units_of_time_never_drift(count, fps):
    ends = np.cumsum(durations(count, fps, 0.001)) / 1000
    assert np.abs(ends - np.arange(1, count + 1) / fps).max() <= 0.00051


# ---- times -----------------------------------------------------------------------------------------------


def test_a_variable_frame_rate_is_resampled_by_the_times_at_which_frames_are_shown(tmp_path):
    pts = [0, 100, 200, 250, 300, 350, 400, 900, 1000]
    path = encoded(tmp_path / "variable.mp4", pts)
    film = read_film(path)
    assert numbers(film.frames) == list(range(9))
    assert film.times == pytest.approx(np.array(pts) / 1000, abs=1e-4)
    assert numbers(read_film(path, fps=10).frames) == [0, 1, 2, 4, 6, 6, 6, 7, 7, 7, 8]
    assert numbers(read_film(path, fps=5).frames) == [0, 2, 6, 6, 7]


def test_other_rates_of_a_steady_film(tmp_path):
    path = write_film(numbered(24), tmp_path / "film.mp4", 24, enlarge=2)
    assert numbers(read_film(path, fps=8).frames) == list(range(0, 24, 3))
    assert numbers(read_film(path, fps=48).frames) == [i // 2 for i in range(48)]
    assert numbers(read_film(path, fps=24).frames) == list(range(24))
    rounded = write_film(numbered(24), tmp_path / "film.mkv", 24, enlarge=1)
    assert numbers(read_film(rounded, fps=8).frames) == list(range(0, 24, 3))


@pytest.mark.parametrize(("name", "codec", "options"), [
    ("a.mp4", "libx264", {"bf": 3, "g": 10}), ("a.mkv", "libx264", {"bf": 2, "g": 7}), ("a.avi", "mpeg4", {"g": 9}),
    ("a.webm", "libvpx-vp9", {"g": 8, "deadline": "realtime"}), ("a.mpg", "mpeg2video", {"g": 6, "bf": 2})])
def test_a_stretch_of_a_film_is_that_stretch_of_the_whole(name, codec, options, tmp_path):
    """Seeking to the last frame that needs no other, in containers and with frames that lean on later ones."""
    path = encoded(tmp_path / name, list(range(40)), codec, Fraction(1, 24), **options)
    whole = read_film(path)
    assert numbers(whole.frames) == list(range(40))
    for first, last in [(0, 3), (5, 9), (19, 31), (38, 39)]:
        some = list(frames_of(path, whole.times[first], whole.times[last]))
        assert [time for time, _ in some] == pytest.approx(whole.times[first : last + 1])
        assert (np.stack([frame for _, frame in some]) == whole.frames[first : last + 1]).all()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_stretch_of_a_moving_picture(suffix, tmp_path):
    path = write_film(numbered(12), tmp_path / f"film{suffix}", 10)
    assert numbers(np.stack([frame for _, frame in frames_of(path, 0.3, 0.5)])) == [3, 4, 5]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_film_is_turned_as_its_metadata_says(degrees, tmp_path):
    """The display matrix of an MP4 turns clockwise; PyAV cannot write one, so its bytes are put in place."""
    path = write_film(numbered(2, 24, 36, first=11), tmp_path / "film.mp4", 8, enlarge=2)
    upright = read_film(path).frames
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = np.array([cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000], dtype=">i4") * 0x10000
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, track, duration, layer, volume come first
    data[at : at + 36] = matrix.astype(">i4").tobytes()
    path.write_bytes(data)
    turned = np.rot90(upright, -degrees // 90, axes=(1, 2))
    assert (read_film(path).frames == turned).all()
    assert (film_facts(path).height, film_facts(path).width) == turned.shape[1:3]


def test_large_frames_are_brought_down_by_a_whole_factor(tmp_path):
    for suffix in (".mkv", ".webp"):
        path = write_film(numbered(2), tmp_path / f"film{suffix}", 8, enlarge=5)  # 120 high
        _, frame = next(frames_of(path, enough=50))
        assert frame.shape == (60, 90, 3)


# ---- looking ---------------------------------------------------------------------------------------------


def test_a_strip_is_the_frames_from_left_to_right():
    sheet = np.asarray(strip(numbered(7), every=2, enlarge=1))
    assert sheet.shape == (24, 4 * 38 - 2, 3)
    assert numbers(np.stack([sheet[:, i * 38 : i * 38 + 36] for i in range(4)])) == [0, 2, 4, 6]
    assert (sheet[:, 36:38] == 255).all()


def test_a_sheet_has_a_row_for_each_film_and_stays_in_width():
    films_ = torch.stack([numbered(5), numbered(5, first=5)])
    sheet = np.asarray(contact_sheet(films_, enlarge=1))
    assert sheet.shape == (50, 5 * 38 - 2, 3)
    assert numbers(np.stack([sheet[26:, i * 38 : i * 38 + 36] for i in range(5)])) == [5, 6, 7, 8, 9]
    assert strip(numbered(60)).width <= 60 * 38


# ---- what cannot be --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "words"), [
    (lambda f: write_film(numbered(2), f / "a.xyz", 8), "a.xyz is not a film by its name: it should end in .gif, "),
    (lambda f: write_film(numbered(2), f / "a.avi", 8), "it should end in .gif, .mkv, .mp4, .webp."),
    (lambda f: write_film(numbered(0), f / "a.mp4", 8), "A film needs frames, and this one has none"),
    (lambda f: write_film(numbered(2)[0], f / "a.mp4", 8), "A film is [T, C, H, W]"),
    (lambda f: write_film(torch.zeros(2, 4, 8, 8), f / "a.mp4", 8), "with 1 or 3 channels"),
    (lambda f: write_film(numbered(2), f / "a.mp4", 0), "fps must be a number above 0"),
    (lambda f: write_film(numbered(2), f / "a.mp4", -3.0), "fps must be a number above 0"),
    (lambda f: write_film(numbered(2), f / "a.mp4", float("nan")), "fps must be a number above 0"),
    (lambda f: write_film(numbered(2), f / "a.gif", 60), "A GIF shows at most 50 frames a second"),
    (lambda f: contact_sheet(torch.zeros(2, 0, 3, 8, 8)), "A film needs frames"),
])
def test_what_cannot_be_written_is_a_sentence(write, words, tmp_path):
    with pytest.raises(UserError, match="^" + ".*") as refused:
        write(tmp_path)
    assert words in str(refused.value)
    assert not list(tmp_path.iterdir())


def sound(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def playlist(path: Path) -> Path:
    """A text that makes FFmpeg open another file, unless it is forbidden to."""
    write_film(numbered(30), path.parent / "other.mp4", 8)
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    return path


def framed(path: Path) -> Path:
    """A video of which nothing but the head is there: it has no frames."""
    whole = encoded(path, list(range(3)), base=Fraction(1, 24))
    whole.write_bytes(whole.read_bytes()[:32])
    return whole


def cut(path: Path, share: float) -> Path:
    whole = write_film(torch.rand(40, 3, 64, 64) * 2 - 1, path, 8, enlarge=1)
    whole.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    return whole


@pytest.mark.parametrize(("make", "name", "words"), [
    (lambda p: p, "gone.mp4", "There is no film"),
    (lambda p: p, "gone.gif", "There is no film"),
    (lambda p: p, "a.txt", "is not a film by its name"),
    (lambda p: p.write_text("not a film at all") and p, "a.mp4", "it is no film, or its beginning is damaged"),
    (lambda p: p.write_text("not a film at all") and p, "a.gif", "it is no film, or its beginning is damaged"),
    (lambda p: p.touch() or p, "a.mkv", "it is empty"),
    (lambda p: p.touch() or p, "a.webp", "it is empty"),
    (sound, "a.mp4", "it holds no pictures, only sound"),
    (playlist, "a.mp4", "it is no film"),
    (lambda p: cut(p, 0.005), "a.mp4", "it is no film"),
    (lambda p: cut(p, 0.02), "a.mp4", "it is damaged or truncated"),
    (lambda p: cut(p, 0.001), "a.gif", "it is no film"),
    (lambda p: cut(p, 0.6), "a.gif", "it is damaged or truncated"),
    (framed, "a.mp4", "it is no film"),
])
def test_what_cannot_be_read_is_a_sentence(make, name, words, tmp_path, capfd):
    path = make(tmp_path / name)
    with pytest.raises(UserError) as refused:
        read_film(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_a_film_that_ends_too_early_is_named_damaged(tmp_path):
    """With its table of frames in front, a film whose end is missing still opens."""
    path = cut(tmp_path / "a.mp4", 0.6)
    with pytest.raises(NotAFilm, match="it is damaged or truncated"):
        read_film(path)


def test_without_pyav_the_extra_is_named_and_gifs_work(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert numbers(read_film(write_film(numbered(3), tmp_path / "a.gif", 8)).frames) == [0, 1, 2]
    for ask in (lambda: write_film(numbered(3), tmp_path / "a.mp4", 8), lambda: read_film(tmp_path / "a.mp4")):
        with pytest.raises(UserError, match=r"pip install 'fromnoise\[video\]'"):
            ask()

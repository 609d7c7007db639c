"""Films as files: written so that everything plays them, read by the times at which their pictures are shown.

    .mp4   H.264, which plays everywhere      .gif   256 colours, which every page and chat shows
    .mkv   FFV1, every pixel exact            .webp  true colours in a picture that moves, every pixel exact

.mp4, .mkv and other video files go through PyAV, the extra ``video``; .gif and .webp through Pillow, which is always
there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from fromnoise.files import disk_errors, replacing
from fromnoise.media import enlargement, from_uint8, grid, to_uint8
from fromnoise.types import UserError

WRITTEN = (".mp4", ".mkv", ".gif", ".webp")
PICTURES = {".gif", ".webp"}  # of these, what Pillow reads
SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"} | PICTURES
# Only these demultiplexers ever see a file, whatever its name: FFmpeg has others that open further files or addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts"
UNINDEXED = {"mpeg", "mpegvideo", "mpegts"}  # containers in which a place is not found by its time
PLAYED = 24.0  # frames a second of films that do not say how fast they are
FASTEST_GIF = 50.0  # browsers show what is faster at 10 frames a second
MAX_PIXELS = 100_000_000  # of a frame, by the file's own header: more is taken for a decompression bomb
UNTIMED = 0.1  # seconds of a GIF's frame that is to be shown for no time, as browsers have it
CLOSE = 1e-6  # seconds that times may be off by rounding
COMMENT = 0x010E  # EXIF's ImageDescription, which holds the comment of a .webp


class NotAFilm(UserError):
    """A file that cannot be read as a film; ``reason``: why, in a few words that are safe to print."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} cannot be read as a film: {reason}.")
        self.reason = reason


@dataclass(frozen=True)
class Film:
    """Frames and when they are shown.

    frames: uint8 ``[T, H, W, 3]``;  times: seconds ``[T]`` since the first, rising;  fps: frames a second, on average.
    """

    frames: np.ndarray
    times: np.ndarray
    fps: float

    @property
    def seconds(self) -> float:
        """How long it is: the last frame is shown as long as others on average."""
        return float(self.times[-1]) + 1 / self.fps

    @property
    def media(self) -> Tensor:
        """``[T, 3, H, W]`` in [-1, 1]."""
        return from_uint8(self.frames)

    def at(self, fps: float) -> Film:
        """The film at ``fps`` frames a second, as long as it is: at every moment the frame whose time is nearest."""
        count = max(1, math.floor(self.seconds * checked_rate(fps) + 0.1))  # some containers round times to 1 ms
        moments = np.arange(count) / fps
        return Film(self.frames[nearest(self.times, moments)], moments, float(fps))


@dataclass(frozen=True)
class FilmFacts:
    """What a file says of itself before it is decoded; ``height`` and ``width`` of the frames as they are shown."""

    frames: int
    fps: float
    height: int
    width: int
    seconds: float


def nearest(times: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """For each moment the index of the time nearest to it, the earlier of two as near; ``times`` rise."""
    middles = (times[1:] + times[:-1]) / 2
    return np.searchsorted(middles, moments - CLOSE)


def checked_rate(fps: Any) -> float:
    """Frames a second as a number.  UserError where it is not above 0."""
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not math.isfinite(fps) or fps <= 0:
        raise UserError(f"fps must be a number above 0, frames a second (got {fps!r:.40}).")
    return float(fps)


# ---- reading --------------------------------------------------------------------------------------------------------


def read_film(path: str | Path, fps: float | None = None) -> Film:
    """All frames of a film, upright, in RGB and with their times; at ``fps`` frames a second where that is given.

    UserError where the file is not there, is of an unknown kind, is no film or is damaged; NotAFilm for the last two.
    """
    found = list(frames_of(path))
    times = np.array([time for time, _ in found])
    film = Film(np.stack([frame for _, frame in found]), times, average_rate(times, film_facts(path).fps))
    return film if fps is None else film.at(fps)


def average_rate(times: np.ndarray, said: float) -> float:
    """Frames a second over all of ``times``; of a single one what is ``said``."""
    seconds = float(times[-1] - times[0])
    return (len(times) - 1) / seconds if seconds > 0 else said


def frames_of(path: str | Path, start: float = 0.0, stop: float = math.inf,
              enough: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds since the film's first frame, uint8 ``[H, W, 3]``) of the frames shown from ``start`` to ``stop``.

    A long film is not decoded up to ``start``, but from the last frame before it that needs no other.  ``enough``
    pixels on the short side satisfy the caller: larger frames are brought down by a whole factor.  UserError as
    ``read_film``.
    """
    path = checked_path(path, SUFFIXES)
    source = _pillow_frames(path, enough) if path.suffix.lower() in PICTURES else _av_frames(path, start, enough)
    last = -math.inf
    with _reasons(path):
        for time, frame in source:
            if time > stop + CLOSE:
                return
            if time <= last:
                raise NotAFilm(path, "the times of its frames do not rise")
            if time >= start - CLOSE:
                last = time
                yield time, frame
    if last < 0:
        raise NotAFilm(path, f"it has no frames from {start:g} s on" if start else "it has no frames")


def film_facts(path: str | Path) -> FilmFacts:
    """How many frames, how fast, how large and how long a film is, without decoding more than one of a video file.

    UserError as for ``read_film``.
    """
    path = checked_path(path, SUFFIXES)
    with _reasons(path):
        return _pillow_facts(path) if path.suffix.lower() in PICTURES else _av_facts(path)


def _pillow_facts(path: Path) -> FilmFacts:
    with _pillow(path) as image:
        seconds = sum(lengths := [_length(image, i) for i in range(getattr(image, "n_frames", 1))])
        return FilmFacts(len(lengths), len(lengths) / seconds, image.height, image.width, seconds)


def _av_facts(path: Path) -> FilmFacts:
    """By the times on the packets, of which each holds a frame."""
    with _opened(path) as container:
        stream = _pictures(container, path)
        times = sorted(float(p.pts * p.time_base) for p in container.demux(stream)
                       if p.pts is not None and p.size and not p.is_discard)
        if not times:
            raise NotAFilm(path, "it has no frames")
        fps = average_rate(np.array(times), float(stream.average_rate or stream.guessed_rate or PLAYED))
        height, width = stream.codec_context.height, stream.codec_context.width
        turned = _turned(container, stream)
        return FilmFacts(len(times), fps, *((width, height) if turned else (height, width)), len(times) / fps)


def read_comment(path: str | Path) -> str:
    """The comment that ``write_film`` put into a file; "" where there is none.  UserError as ``read_film``."""
    path = checked_path(path, SUFFIXES)
    with _reasons(path):
        if path.suffix.lower() in PICTURES:
            with _pillow(path) as image:
                kept = image.getexif().get(COMMENT, "").encode("latin-1") if image.format == "WEBP" else (
                    image.info.get("comment", b""))
                return kept.decode("utf-8", "replace")
        with _opened(path) as container:
            return {key.lower(): value for key, value in container.metadata.items()}.get("comment", "")


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """What decoders raise on damaged data, which is of many kinds, as NotAFilm."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception:
        raise NotAFilm(path, "it is damaged or truncated") from None


def checked_path(path: str | Path, suffixes) -> Path:
    """A path whose suffix is among those.  UserError where it is not."""
    if (path := Path(path)).suffix.lower() not in suffixes:
        raise UserError(f"{path.name} is not a film by its name: it should end in {', '.join(sorted(suffixes))}.")
    return path


def av() -> Any:
    """PyAV.  UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("Video files need PyAV: pip install 'fromnoise[video]' (.gif and .webp work without "
                        "it).") from None
    return av


def _opened(path: Path) -> Any:
    """A container opened for reading.  UserError as ``read_film``."""
    library = av()
    if not path.is_file():
        raise UserError(f"There is no film {path}.")
    try:
        return library.open(f"file:{path}", options={"protocol_whitelist": "file", "format_whitelist": FORMATS})
    except PermissionError:
        raise NotAFilm(path, "the file may not be read") from None
    except (library.error.FFmpegError, ValueError):
        empty = path.stat().st_size == 0
        raise NotAFilm(path, "it is empty" if empty else "it is no film, or its beginning is damaged") from None


def _pictures(container: Any, path: Path) -> Any:
    """The video stream of a container.  Raises NotAFilm."""
    if not container.streams.video:
        raise NotAFilm(path, "it holds no pictures" + (", only sound" if container.streams.audio else ""))
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise NotAFilm(path, "its pictures are coded in a way that is not known here")
    stream.codec_context.thread_count = 1  # sources decode several films at once
    if stream.codec_context.width * stream.codec_context.height > MAX_PIXELS:
        raise NotAFilm(path, f"it claims more than the {MAX_PIXELS // 10**6} million pixels allowed")
    return stream


def _turned(container: Any, stream: Any) -> bool:
    """Whether the frames are shown on their side, which only a frame says."""
    container.seek(0)
    first = next(container.decode(stream), None)
    return first is not None and first.rotation % 180 != 0


def _av_frames(path: Path, start: float, enough: int | None) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a video file that are shown from ``start`` on."""
    with _opened(path) as container:
        stream = _pictures(container, path)
        frames = container.decode(stream)
        if (first := next(frames, None)) is None:
            return
        if start > 0 and container.format.name not in UNINDEXED:
            container.seek(int((_time(first, path) + start) / stream.time_base), stream=stream)
            frames = container.decode(stream)
        else:
            frames = chain([first], frames)
        for frame in frames:
            if (time := _time(frame, path) - _time(first, path)) >= start - CLOSE:
                yield time, _upright(frame, enough)


def _time(frame: Any, path: Path) -> float:
    """Seconds at which a frame is shown.  Raises NotAFilm."""
    if frame.time is None:
        raise NotAFilm(path, "its frames do not say when they are shown")
    return float(frame.time)


def _upright(frame: Any, enough: int | None) -> np.ndarray:
    """uint8 ``[H, W, 3]`` of a decoded frame, turned as it says, brought down where ``enough`` is less than it has."""
    factor = max(1, min(frame.width, frame.height) // enough) if enough else 1
    small = {} if factor == 1 else {"width": frame.width // factor, "height": frame.height // factor,
                                    "interpolation": "AREA"}
    pixels = frame.to_ndarray(format="rgb24", **small)
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _pillow(path: Path) -> Image.Image:
    """A moving picture opened.  UserError as ``read_film``."""
    if not path.is_file():
        raise UserError(f"There is no film {path}.")
    try:
        image = Image.open(path, formats=["GIF", "WEBP"])
    except PermissionError:
        raise NotAFilm(path, "the file may not be read") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        empty = path.stat().st_size == 0
        raise NotAFilm(path, "it is empty" if empty else "it is no film, or its beginning is damaged") from None
    if image.width * image.height > MAX_PIXELS:
        raise NotAFilm(path, f"it claims more than the {MAX_PIXELS // 10**6} million pixels allowed")
    return image


def _pillow_frames(path: Path, enough: int | None) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a moving picture; what is clear is white."""
    time = 0.0
    with _pillow(path) as image:
        for i in range(getattr(image, "n_frames", 1)):
            length = _length(image, i)
            clear = image.convert("RGBA")
            frame = Image.new("RGB", clear.size, "white")
            frame.paste(clear, mask=clear.getchannel("A"))
            factor = max(1, min(frame.size) // enough) if enough else 1
            yield time, np.asarray(frame.reduce(factor) if factor > 1 else frame)
            time += length


def _length(image: Image.Image, index: int) -> float:
    """Seconds that a frame is shown; it is then the one that is open."""
    image.seek(index)
    image.load()
    return (image.info.get("duration") or 1000 * UNTIMED) / 1000


# ---- writing --------------------------------------------------------------------------------------------------------


def write_film(media: Tensor, path: str | Path, fps: float, enlarge: int | None = None, comment: str = "") -> Path:
    """A film ``[T, C, H, W]`` in [-1, 1] as .mp4, .mkv, .gif or .webp, enlarged by whole pixels to be seen well.

    enlarge: by how much; None brings a small film to about 128 pixels.  .mkv and .webp keep every pixel as it is (of 8
    bits).  .mp4 halves the resolution of colour, which takes even sides: of an odd one the last row or column is there
    twice.  comment: a text kept in the file, for ``read_comment``.
    UserError for another suffix, a film without frames or of other than 1 or 3 channels, fps that is not above 0 or
    more than a GIF can show, and a disk that refuses.
    """
    path, fps = check_shown(checked_path(path, WRITTEN), fps), checked_rate(fps)
    if media.ndim != 4 or media.shape[1] not in (1, 3):
        raise UserError(f"A film is [T, C, H, W] with 1 or 3 channels (got {list(media.shape)}).")
    if not media.numel():
        raise UserError(f"A film needs frames, and this one has none ({list(media.shape)}).")
    frames = to_uint8(media).repeat(4 - media.shape[1] if media.shape[1] == 1 else 1, axis=-1)
    factor = enlargement(media.shape[-2]) if enlarge is None else enlarge
    suffix = path.suffix.lower()
    with disk_errors(path), replacing(path) as temporary:
        if suffix == ".gif":
            _write_gif(frames, temporary, fps, factor, comment)
        elif suffix == ".webp":
            _write_webp(frames, temporary, fps, factor, comment)
        else:
            _write_video(enlarged(frames, factor), temporary, fps, suffix == ".mkv", comment)
    return path


def check_shown(path: Path, fps: float) -> Path:
    """The path of a film that shows so many frames a second.  UserError for a GIF that cannot."""
    if path.suffix.lower() == ".gif" and checked_rate(fps) > FASTEST_GIF:
        raise UserError(f"A GIF shows at most {FASTEST_GIF:g} frames a second (got {fps:g}): write .mp4 or .webp.")
    return path


def enlarged(frames: np.ndarray, factor: int) -> np.ndarray:
    """``[T, H, W, C]`` with each pixel as a square of ``factor`` by ``factor``."""
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _write_video(frames: np.ndarray, path: Path, fps: float, exact: bool, comment: str) -> None:
    """FFV1 in Matroska, or H.264 in MP4 (MPEG-4 part 2 where this FFmpeg has no x264)."""
    library = av()
    name = "ffv1" if exact else "libx264" if "libx264" in library.codecs_available else "mpeg4"
    options = {"libx264": {"crf": "10", "preset": "medium"}, "mpeg4": {"qscale": "2"}, "ffv1": {}}[name]
    if not exact:  # a sample of colour stands for two by two pixels
        frames = np.pad(frames, [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)], mode="edge")
    rate = Fraction(fps).limit_denominator(100_000)
    muxer = {"format": "matroska"} if exact else {"format": "mp4", "options": {"movflags": "faststart"}}
    with library.open(f"file:{path}", "w", **muxer) as container:
        container.metadata["comment"] = comment
        stream = container.add_stream(name, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if exact else "yuv420p"
        stream.codec_context.thread_count = 1  # the same file on every machine
        if not exact:  # players take large pictures for BT.709 unless they are told
            stream.codec_context.color_primaries = stream.codec_context.color_trc = 6
            stream.codec_context.colorspace = 6
        for picture in frames:
            container.mux(stream.encode(library.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


def durations(count: int, fps: float, unit: float) -> list[int]:
    """How many ``unit``s of time each of ``count`` frames is shown, so that none is ever off by more than a half."""
    ends = [round(i / (fps * unit)) for i in range(count + 1)]
    return [b - a for a, b in pairwise(ends)]


def _write_gif(frames: np.ndarray, path: Path, fps: float, factor: int, comment: str) -> None:
    """One palette for the whole film: colours that are chosen for each frame flicker."""
    count, height, width, _ = frames.shape
    whole = Image.fromarray(frames.reshape(count * height, width, 3)).quantize(
        256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    tiles = [whole.crop((0, i * height, width, (i + 1) * height)) for i in range(count)]
    first, *rest = [tile.resize((width * factor, height * factor), Image.Resampling.NEAREST) for tile in tiles]
    first.save(path, "GIF", save_all=True, append_images=rest, loop=0, disposal=1, optimize=False,
               duration=[10 * d for d in durations(count, fps, 0.01)], comment=comment.encode())


def _write_webp(frames: np.ndarray, path: Path, fps: float, factor: int, comment: str) -> None:
    exif = Image.Exif()
    exif[COMMENT] = comment.encode()
    first, *rest = [Image.fromarray(frame) for frame in enlarged(frames, factor)]
    first.save(path, "WEBP", save_all=True, append_images=rest, loop=0, lossless=True, exif=exif,
               duration=durations(len(frames), fps, 0.001))


# ---- looking --------------------------------------------------------------------------------------------------------


def strip(media: Tensor, every: int = 1, enlarge: int | None = None) -> Image.Image:
    """A contact strip of a film ``[T, C, H, W]`` in [-1, 1]: each ``every``-th frame, from left to right."""
    return contact_sheet(media[None, ::every], enlarge)


def moving(fps: float) -> str:
    """The suffix of a film to look at anywhere, without PyAV: a GIF, unless it is too fast for one."""
    return ".gif" if fps <= FASTEST_GIF else ".webp"


def contact_sheet(media: Tensor, enlarge: int | None = None) -> Image.Image:
    """Films ``[B, T, C, H, W]`` in [-1, 1] as strips, one row each.  UserError where there is no frame."""
    if not media.numel():
        raise UserError(f"A film needs frames, and here are none ({list(media.shape)}).")
    factor = sheet_enlargement(media.shape[1], *media.shape[-2:]) if enlarge is None else enlarge
    return grid(media.flatten(0, 1)[:, None], columns=media.shape[1], enlarge=factor)


def sheet_enlargement(frames: int, height: int, width: int, wide: int = 2048) -> int:
    """The whole factor for the pictures of a contact sheet: as for one picture, while a row is ``wide`` at most."""
    return max(1, min(enlargement(height), wide // (frames * (width + 2))))

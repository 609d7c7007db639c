"""Video files, through PyAV, the extra ``video``."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.films.film import CLOSE, MAX_PIXELS, PLAYED, FilmFacts, NotAFilm, average_rate
from fromnoise.types import UserError

# Only these demultiplexers ever see a file, whatever its name: FFmpeg has others that open further files or addresses.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts"
UNINDEXED = {"mpeg", "mpegvideo", "mpegts"}  # containers in which a place is not found by its time


def av() -> Any:
    """PyAV.  UserError where it is not installed."""
    try:
        import av
    except ImportError:
        raise UserError("Video files need PyAV: pip install 'fromnoise[video]' (.gif and .webp work without "
                        "it).") from None
    return av


def facts(path: Path) -> FilmFacts:
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


def frames(path: Path, start: float, enough: int | None) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, uint8 ``[H, W, 3]``) of the frames that are shown from ``start`` on, as ``frames_of``."""
    with _opened(path) as container:
        stream = _pictures(container, path)
        shown = container.decode(stream)
        if (first := next(shown, None)) is None:
            return
        if start > 0 and container.format.name not in UNINDEXED:
            container.seek(int((_time(first, path) + start) / stream.time_base), stream=stream)
            shown = container.decode(stream)
        else:
            shown = chain([first], shown)
        for frame in shown:
            if (time := _time(frame, path) - _time(first, path)) >= start - CLOSE:
                yield time, _upright(frame, enough)


def comment(path: Path) -> str:
    """The comment kept in a video file."""
    with _opened(path) as container:
        return {key.lower(): value for key, value in container.metadata.items()}.get("comment", "")


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


def write(frames: np.ndarray, path: Path, fps: float, exact: bool, comment: str) -> None:
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

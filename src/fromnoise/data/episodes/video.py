"""Frames as video files: shards that hold many episodes one after the other.

Small frames of games are flat areas with hard edges.  Coded without loss in RGB they take little more room than coded
with loss (docs/log.md has the figures), so that is the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fromnoise.data.episodes.needs import need
from fromnoise.types import UserError

Quality = Literal["lossless", "near", "plain"]
# (encoder, pixel format, options): H.264 in RGB without loss, in YUV with colours at full resolution, and as every
# player and browser reads it, with colours at half resolution.
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "lossless": ("libx264rgb", "rgb24", {"qp": "0"}),
    "near": ("libx264", "yuv444p", {"crf": "10"}),
    "plain": ("libx264", "yuv420p", {"crf": "10"}),
}
KEYFRAMES = 10  # frames from one that stands for itself to the next, which is what random access has to decode
READS = "Video files need"


def encode(path: Path, frames: Iterable[np.ndarray], fps: float, quality: Quality = "lossless") -> dict[str, Any]:
    """Write frames uint8 ``[H, W, 3]`` as an MP4 in which frame i stands at i / fps seconds.

    One thread, so that the same frames give the same bytes.  What LeRobot's meta/info.json says of a video.
    UserError for sides that the format cannot have.
    """
    av = need("av", READS)
    codec, pixels, options = CODECS[quality]
    stream: Any = None
    with av.open(str(path), "w", format="mp4") as file:
        for frame in frames:
            if stream is None:
                height, width = frame.shape[:2]
                if quality == "plain" and (height % 2 or width % 2):
                    raise UserError(f"Video of quality plain has even sides, and these frames are {width}x{height}: "
                                    "choose another size, or quality near or lossless.")
                stream = file.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = width, height, pixels
                stream.options = options | {"g": str(KEYFRAMES)}
                stream.thread_count = 1
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        file.mux(stream.encode())
        return {"video.height": stream.height, "video.width": stream.width, "video.codec": "h264",
                "video.pix_fmt": "gbrp" if pixels == "rgb24" else pixels, "video.is_depth_map": False,
                "video.fps": number(fps), "video.channels": 3, "has_audio": False}


def decode(path: Path) -> Iterator[np.ndarray]:
    """The frames uint8 ``[H, W, 3]`` of a video in order.  UserError where it is damaged or missing."""
    av = need("av", READS)
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise UserError(f"{path} holds no video.")
            file.streams.video[0].thread_count = 1
            to_rgb = av.video.reformatter.VideoReformatter()  # one for all: to set it up takes longer than a frame
            for frame in file.decode(video=0):
                yield (frame if frame.format.name == "gbrp" else to_rgb.reformat(frame, format="rgb24")).to_ndarray()
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"The video {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def probe(path: Path) -> tuple[float, int, int]:
    """(frames a second, height, width) of a video.  UserError where it is damaged or missing."""
    av = need("av", READS)
    try:
        with av.open(str(path)) as file:
            if not file.streams.video:
                raise UserError(f"{path} holds no video.")
            stream = file.streams.video[0]
            return float(stream.average_rate or stream.guessed_rate or 0), stream.height, stream.width
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"The video {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def number(value: float) -> int | float:
    """A whole number without a point."""
    return int(value) if float(value).is_integer() else float(value)

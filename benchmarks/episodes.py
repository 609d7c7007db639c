"""Recording and reading episodes of real environments, in CPU seconds of one core.

    python benchmarks/episodes.py [FRAMES]

For each world: frames a second that are played and that are written, bytes a frame and error of each quality of video,
frames a second that are decoded, and that are read as batches for training.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fromnoise.data.episodes import Episode, Episodes, World
from fromnoise.data.episodes.play import Play, Player
from fromnoise.data.episodes.video import CODECS, decode, encode
from fromnoise.data.episodes.world import settled
from fromnoise.data.episodes.writer import Writer

WORLDS = {
    "Pong, its court": World(id="ALE/Pong-v5", crop=(0, 34, 160, 160), limit=1000),
    "Breakout": World(id="ALE/Breakout-v5", limit=1000),
    "MiniGrid 8x8, full view": World(id="MiniGrid-DoorKey-8x8-v0"),
    "MiniGrid 8x8, partial view": World(id="MiniGrid-DoorKey-8x8-v0", view="partial"),
    "MinAtar Breakout": World(id="MinAtar/Breakout-v1"),
    "MinAtar SpaceInvaders": World(id="MinAtar/SpaceInvaders-v1"),
}


def took(work: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main(count: int) -> None:
    torch.set_num_threads(1)
    for name, world in WORLDS.items():
        with tempfile.TemporaryDirectory() as folder:
            measure(name, settled(world), count, Path(folder))


def measure(name: str, world: World, count: int, folder: Path) -> None:
    """Print what one world takes."""
    player, episodes = Player(Play(world=world, sticky=0.5)), []

    def play() -> None:
        while sum(map(len, episodes)) < count:
            episodes.append(player.episode(len(episodes)))

    playing = took(play)
    writer = Writer(folder / "recording", player.actions, world.fps, "lossless", {})
    writing, frames = took(lambda: writer.append(episodes)), sum(map(len, episodes))
    print(f"{name}: {frames} frames, played at {frames / playing:.0f}/s, written at {frames / writing:.0f}/s, together "
          f"{frames / (playing + writing):.0f}/s")
    for quality in CODECS:
        print("   " + video(quality, episodes, world.fps, folder / f"{quality}.mp4"))
    spec = Episodes(root=str(folder / "recording"), frames=4)
    decoding = took(lambda: spec.open("train"))
    source, rng = spec.open("train"), np.random.default_rng(0)

    def read() -> None:
        for _ in range(200):
            source.batch(rng.integers(len(source), size=64).tolist(), [0] * 64)

    print(f"   decoded to disk at {frames / decoding:.0f}/s, read as batches of 64 x 4 at "
          f"{200 * 64 * 4 / took(read):.0f}/s")


def video(quality: str, episodes: list[Episode], fps: float, path: Path) -> str:
    """What a quality of video costs, and how far its frames are from the true ones."""
    true = np.concatenate([episode.frames for episode in episodes])
    encoding = took(lambda: encode(path, true, fps, quality))  # type: ignore[arg-type]
    back: list[np.ndarray] = []
    decoding = took(lambda: back.extend(decode(path)))
    error = float(np.mean((np.stack(back).astype(np.float32) - true) ** 2))
    decibels = 10 * np.log10(255**2 / error) if error else np.inf
    return (f"{quality}: {path.stat().st_size / len(true):.0f} bytes a frame, {decibels:.1f} dB, encoded at "
            f"{len(true) / encoding:.0f}/s, decoded at {len(true) / decoding:.0f}/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)

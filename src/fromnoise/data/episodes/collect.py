"""Recordings made by playing real environments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fromnoise.config import from_dict, to_dict
from fromnoise.data.episodes.episode import Episode
from fromnoise.data.episodes.play import Play, Player, episodes
from fromnoise.data.episodes.video import Quality
from fromnoise.data.episodes.world import settled
from fromnoise.data.episodes.writer import Writer, episode_rows, written
from fromnoise.types import UserError

SHARD = 4096  # frames after which a shard is closed: what a killed process may lose, and a file of a few MB

Progress = Callable[[int, int], None]  # (episodes, frames) that are there


def collect(play: Play, out: Path, count: int = 0, frames: int = 0, processes: int = 1, quality: Quality = "lossless",
            progress: Progress = lambda episodes, frames: None) -> Writer:
    """Play until ``out`` holds ``count`` episodes, or episodes of ``frames`` frames together.

    A folder that was begun with the same choices goes on where it stopped, and comes out as if it had not.
    UserError for one that holds something else, and where the environment or the policy cannot be.
    """
    play = replace(play, world=settled(play.world))
    player = Player(play)  # first of all, so that what cannot be is told at once
    player.screen.close()
    chosen = {"format": 1, **to_dict(play), "quality": quality}
    _check(out, chosen)
    writer = Writer(out, player.actions, play.world.fps, quality, chosen | {"actions": to_dict(player.actions)})
    goal = (lambda e, f: e >= count) if count else (lambda e, f: f >= frames)
    if goal(writer.episodes, writer.frames):
        return writer
    with closing(episodes(play, writer.episodes, processes)) as played:
        for shard in _shards(played, writer, goal, progress):
            writer.append(shard)
    return writer


def _shards(played: Iterator[Episode], writer: Writer, goal: Callable[[int, int], bool],
            progress: Progress) -> Iterator[list[Episode]]:
    """Episodes until the goal is reached, by the shard."""
    shard: list[Episode] = []
    for episode in played:
        shard.append(episode)
        there = writer.episodes + len(shard), writer.frames + sum(map(len, shard))
        progress(*there)
        if (done := goal(*there)) or there[1] - writer.frames >= SHARD:
            yield shard
            shard = []
        if done:
            return


def _check(out: Path, chosen: dict[str, Any]) -> None:
    """Refuse a folder that holds something else."""
    held = written(out)
    if held is None and out.exists() and any(not path.name.startswith(".") for path in out.iterdir()):
        raise UserError(f"{out} holds other files: name a new folder with --out.")
    if held is None or not episode_rows(out):  # begun, but nothing counts yet
        return
    names = {field.name for field in fields(Play)}
    played = from_dict(Play, {key: value for key, value in held.items() if key in names}, str(out))
    old, new = _flat(held | to_dict(played)), _flat(chosen)  # choices that are newer than it have their defaults
    if other := [f"{key} {old.get(key)} (now {new.get(key)})" for key in sorted(old.keys() | new.keys())
                 if not key.startswith("actions") and old.get(key) != new.get(key)]:
        raise UserError(f"{out} was collected with {', '.join(other)}: say the same to go on, or name a new folder "
                        "with --out.")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested choices by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found

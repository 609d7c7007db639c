"""fromnoise worlds collect ENV [--out FOLDER] [--field value ...], and worlds measure RUN"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fromnoise.cli.options import parse
from fromnoise.config import explain, nearest, spec
from fromnoise.data.episodes import About, World, open_recording
from fromnoise.data.episodes.collect import collect
from fromnoise.data.episodes.play import Play
from fromnoise.data.episodes.video import Quality
from fromnoise.data.episodes.world import Option
from fromnoise.media import from_uint8, grid
from fromnoise.train.threads import available_cores
from fromnoise.types import UserError

USAGE = """usage: fromnoise worlds collect ENV [--frames N | --episodes N] [--out FOLDER] [--field value ...]
       fromnoise worlds measure RUN [--data.root FOLDER] [--field value ...]

ENV is any environment that Gymnasium knows: Atari (ALE/Pong-v5), MiniGrid (MiniGrid-DoorKey-8x8-v0), MinAtar
(MinAtar/Breakout-v1), or one of yours (module:Name-v0).  What is played goes to FOLDER, by default data/<name>, in the
layout of LeRobot v3.0; the same command again goes on where it was stopped.

  fromnoise worlds collect ALE/Pong-v5 --crop 160x160+0+34 --policy rally --explore 0.3 --frames 100000
  fromnoise worlds collect MiniGrid-DoorKey-8x8-v0 --policy wander --view partial --episodes 200
  fromnoise worlds collect MinAtar/Breakout-v1 --size 60 --policy players:mine --out data/breakout
  fromnoise worlds collect CarRacing-v3 --options continuous=false --repeat 3 --policy drive --explore 0.25

RUN is a world that was trained on such a folder: control, counterfactuals and stability go to RUN/measured.

fromnoise worlds collect --help and fromnoise worlds measure --help list every option."""

ABOUT = """Play a real environment and record what is seen and done.

Episode i depends on the seed and on i alone: the same command gives the same data, bit for bit."""
SHOWN = 10, 4  # frames of an episode, and episodes, on the sheet that is shown


@spec
class Arguments:
    """Which environment, who plays it, and how much of it is kept."""

    frames: Annotated[int, Field(ge=0)] = 0
    """Stop with the episode in which so many frames are reached; 10,000 where neither this nor --episodes is said."""
    episodes: Annotated[int, Field(ge=0)] = 0
    """Stop after so many episodes."""
    policy: Annotated[str, Field(min_length=1)] = "random"
    """random, wander (MiniGrid), rally (Pong, and Breakout of MinAtar), defend (Space Invaders of MinAtar), drive
    (CarRacing), or module:function, called as (observation, info, rng) -> action."""
    sticky: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How likely the last action is held for another frame, whatever the policy says."""
    explore: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the policy's actions that are random instead."""
    size: str = "64"
    """WIDTHxHEIGHT of the pictures in pixels, or one number for both."""
    crop: str = ""
    """WIDTHxHEIGHT+LEFT+TOP of what is kept of the environment's own pictures, such as 160x160+0+34 of Pong's court."""
    view: str = "full"
    """full, or of MiniGrid partial: what the agent sees."""
    options: tuple[str, ...] = ()
    """What the environment is made with, as name=value: frameskip=4 repeat_action_probability=0.25."""
    repeat: Annotated[int, Field(ge=1)] = 1
    """Steps of the environment that an action is held for, of which the last picture is recorded."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Recorded steps after which an episode is cut off; 0: as the environment says, over --repeat and rounded up."""
    fps: Annotated[float, Field(ge=0)] = 0.0
    """Frames a second at which it is played; 0: as the environment says, over --repeat."""
    video: Quality = "lossless"
    """lossless, near (to the eye), or plain: as every player and browser shows it, with colours at half resolution."""
    envs: Annotated[int, Field(ge=0, le=512)] = 0
    """Environments that play at once, each in a process of its own; 0: one for each core."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes every episode."""
    out: str = ""
    """The folder; by default data/ and the environment's name."""


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "measure":
        from fromnoise.cli import measure_worlds

        return measure_worlds.main(argv[1:])
    if argv[0] != "collect":
        raise UserError(f'fromnoise worlds cannot "{argv[0]}". {nearest(argv[0], ["collect", "measure"])}')
    named = [argv[1]] if len(argv) > 1 and not argv[1].startswith("-") else []
    args = parse(Arguments, argv[1 + len(named) :], "fromnoise worlds collect", about=ABOUT)
    if not named:
        raise UserError("Name an environment first: fromnoise worlds collect ALE/Pong-v5.")
    out = Path(args.out or Path("data") / folder_name(named[0]))
    collected(play_of(named[0], args), args, out)
    about = open_recording(str(out)).about
    print(f"{about.episodes:,} episodes of {about.frames:,} frames at {about.width}x{about.height}, "
          f"{about.fps:g} a second; actions: {about.actions}")
    print(f"fromnoise train RECIPE --data episodes --data.root {out}")
    print(sheet(about))
    return 0


def play_of(name: str, args: Arguments) -> Play:
    """Which world is played and how.  UserError where an option is none."""
    width, height = size_of(args.size)
    try:
        world = World(id=name, options=options_of(args.options), view=args.view, crop=crop_of(args.crop),  # type: ignore[arg-type]
                      height=height, width=width, fps=args.fps, limit=args.limit, repeat=args.repeat)
    except ValidationError as error:
        raise UserError(f"--{explain(error, {})}.") from None
    return Play(world=world, policy=args.policy, sticky=args.sticky, explore=args.explore, seed=args.seed)


def collected(play: Play, args: Arguments, out: Path) -> None:
    """Collect, with a bar that says how long it will take."""
    if args.episodes and args.frames:
        raise UserError("Say --episodes or --frames, not both.")
    frames = 0 if args.episodes else args.frames or 10_000
    envs = args.envs or available_cores()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("episodes" if args.episodes else "frames", total=args.episodes or frames)
        collect(play, out, args.episodes, frames, min(envs, args.episodes or envs), args.video,
                lambda e, f: bar.update(task, completed=e if args.episodes else f))


def size_of(text: str) -> tuple[int, int]:
    """(width, height).  UserError where it is neither WIDTHxHEIGHT nor a number."""
    if not (found := re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)):
        raise UserError(f'--size is WIDTHxHEIGHT, such as 80x64, or one number for both (got "{text}").')
    return int(found[1]), int(found[2] or found[1])


def crop_of(text: str) -> tuple[int, ...] | None:
    """(left, top, width, height).  UserError where it is not WIDTHxHEIGHT+LEFT+TOP."""
    if not text:
        return None
    if not (found := re.fullmatch(r"(\d{1,5})x(\d{1,5})\+(\d{1,5})\+(\d{1,5})", text)):
        raise UserError(f'--crop is WIDTHxHEIGHT+LEFT+TOP, such as 160x160+0+34 (got "{text}").')
    width, height, left, top = map(int, found.groups())
    return left, top, width, height


def options_of(texts: tuple[str, ...]) -> dict[str, Option]:
    """``{"frameskip": 4}`` of frameskip=4; what is no number, true or false is text."""
    found: dict[str, Option] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f'--options takes name=value, such as frameskip=4 (got "{text}").')
        try:
            said = json.loads(value)
        except ValueError:
            said = value
        found[name] = said if isinstance(said, bool | int | float) else value
    return found


def folder_name(name: str) -> str:
    """pong for ALE/Pong-v5, minigrid-doorkey-8x8 for MiniGrid-DoorKey-8x8-v0."""
    plain = re.sub(r"-v\d+$", "", name.removeprefix("ALE/"))
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-") or "world"


def sheet(about: About) -> Path:
    """A sheet of frames, a row an episode, in the folder."""
    across, down = SHOWN
    rows = []
    for _, episode in zip(range(down), open_recording(str(about.root)), strict=False):
        rows.append(episode.frames[np.linspace(0, len(episode) - 1, across).round().astype(int)])
    path = about.root / "frames.png"
    grid(from_uint8(np.concatenate(rows))[:, None], columns=across, enlarge=max(1, 96 // about.height)).save(path)
    return path

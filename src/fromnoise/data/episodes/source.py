"""Episodes as a data set: windows of frames, and what was done between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fromnoise.config import spec
from fromnoise.data.episodes.actions import MaybeActions, Unsaid
from fromnoise.data.episodes.cache import cached
from fromnoise.data.episodes.episode import About
from fromnoise.data.episodes.opening import open_recording
from fromnoise.data.episodes.world import World
from fromnoise.media import from_uint8
from fromnoise.random import fold
from fromnoise.types import Source, UserError

RESTART = 1  # what random numbers are for


@spec
class Episodes:
    """Recorded episodes of an environment or a game: frames and the actions between them."""

    kind: Literal["episodes"] = "episodes"
    root: str
    """The folder, as fromnoise worlds collect, LeRobot (v3.0) or Minari write it, or of videos with logs of actions."""
    frames: Annotated[int, Field(ge=1)] = 16
    """Frames of a window; episodes that are shorter are left out."""
    restarts: bool = False
    """Windows go on from where a world ended into the next episode, so that a model learns that it begins anew."""
    fps: Annotated[float, Field(ge=0)] = 0.0
    """Frames a second at which it is played; 0: as the recording says."""
    height: Annotated[int, Field(ge=8, le=4096)] = 64
    """Height in pixels, to which frames of another size are brought."""
    width: Annotated[int, Field(ge=8, le=4096)] = 64
    """Width in pixels."""
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the episodes kept for evaluation; of a single episode, none."""
    camera: str = ""
    """Which of several cameras, by the name of its feature."""
    cache: str = ""
    """Where decoded frames are kept; by default .frames in the folder."""
    actions: MaybeActions = Unsaid()
    """What can be done; by default as the recording says."""
    world: World | None = None
    """How the real environment is made again; by default as the recording says."""

    channels = 3

    def open(self, split: Literal["train", "test"]) -> EpisodeSource:
        """Episodes to train on, or those held out.  UserError where the folder holds none of this length."""
        return EpisodeSource(self, split)

    def summary(self) -> Summary:
        """What the recording says of itself.  UserError where there is none."""
        return Summary(open_recording(self.root, self.camera).about)

    def resolved(self) -> Episodes:
        """With what the recording says of frame rate, actions and environment written down."""
        if self.fps and not isinstance(self.actions, Unsaid):
            return self
        about = open_recording(self.root, self.camera).about
        actions = about.actions if isinstance(self.actions, Unsaid) else self.actions
        return replace(self, fps=self.fps or about.fps, actions=actions, world=self.world or about.world)


@dataclass(frozen=True)
class Summary:
    """A recording at a glance."""

    about: About

    def lines(self) -> list[str]:
        """Plain text; names may hold square brackets, so print it without markup."""
        of = self.about
        return [f"{of.episodes:,} episodes in {of.root}: {of.frames:,} frames of {of.width}x{of.height}, {of.fps:g} a "
                f"second; actions: {of.actions}"]


class EpisodeSource(Source):
    """One split.  Example i is the i-th window: each frame begins one that its run has room for.

    A run is an episode; where windows go on over restarts, episodes of the split that lie one after the other, of which
    all but the last ended by themselves.  A player does not know of an end before it is seen, so that to a first frame
    within a window, to which no action led, one is told that is drawn at random.

    held_out: whether the test split is apart from the training split; a single episode is both;
    episodes: their numbers;  runs: ``[R, 2]``, the rows of the recording at which each begins and is over.
    """

    def __init__(self, spec: Episodes, split: Literal["train", "test"]):
        self.spec = spec
        recording = open_recording(spec.root, spec.camera)
        self.recorded = cached(recording, spec.height, spec.width, spec.cache)
        offsets = self.recorded.offsets
        lengths = np.diff(offsets)
        long = np.flatnonzero(lengths >= (1 if spec.restarts else spec.frames))
        train, test = split_episodes(long, spec.held_out)
        self.held_out = bool(len(test))
        self.episodes = test if split == "test" and len(test) else train
        ended = self.recorded.ends[offsets[1:] - 1] == 1
        whole = joined(self.episodes, ended) if spec.restarts else self.episodes[:, None]
        self.runs = np.array([[offsets[run[0]], offsets[run[-1] + 1]] for run in whole], np.int64).reshape(-1, 2)
        room = self.runs[:, 1] - self.runs[:, 0] - spec.frames + 1  # windows of each run
        if not (room > 0).any():
            raise UserError(f"The longest episode in {spec.root} has {lengths.max()} frames, and a window has "
                            f"{spec.frames}: ask for fewer with --data.frames.")
        self.windows = np.cumsum([0, *room.clip(0)])
        known = recording.about.actions if isinstance(spec.actions, Unsaid) else spec.actions
        rng = np.random.default_rng(int(fold(RESTART)))
        self.restarted = np.stack([known.draw(rng) for _ in lengths])  # what is told where episode e begins anew

    @property
    def fingerprint(self) -> str:
        return self.recorded.fingerprint

    @property
    def captions(self) -> list[str]:
        return [""]

    @property
    def groups(self) -> list[range]:
        return [range(len(self))]

    def __len__(self) -> int:
        return int(self.windows[-1])

    def choose(self, indices: Sequence[int], keys: Sequence[int]) -> tuple[list[int], list[str]]:
        return [0] * len(indices), [""] * len(indices)

    def pictures(self, indices: Sequence[int], versions: Sequence[int]) -> Tensor:
        """Windows ``[B, T, 3, H, W]`` in [-1, 1]."""
        frames, count = self.recorded.frames, self.spec.frames
        return from_uint8(np.stack([frames[start : start + count] for start in self.starts(indices).tolist()]))

    def actions(self, indices: Sequence[int]) -> Tensor:
        """What led to each frame: ``[B, T]`` long or ``[B, T, A]`` float32, -1 or NaN where an episode begins."""
        rows, offsets = self._rows(indices), self.recorded.offsets
        actions = self.recorded.actions[rows]
        episode = np.searchsorted(offsets, rows, "right") - 1
        anew = (rows == offsets[episode]) & (np.arange(self.spec.frames) > 0)
        actions[anew] = self.restarted[episode[anew]]
        return torch.from_numpy(actions)

    def rewards(self, indices: Sequence[int]) -> Tensor:
        """What came with each frame, ``[B, T]`` float32."""
        return torch.from_numpy(self.recorded.rewards[self._rows(indices)])

    def ends(self, indices: Sequence[int]) -> Tensor:
        """Whether the world ended with the frame, ``[B, T]`` bool; one that was cut off did not."""
        return torch.from_numpy(self.recorded.ends[self._rows(indices)] == 1)

    def starts(self, indices: Sequence[int]) -> np.ndarray:
        """The first frame of each window, as a row of the recording."""
        index = np.asarray(indices, np.int64)
        run = np.searchsorted(self.windows, index, "right") - 1
        return self.runs[run, 0] + index - self.windows[run]

    def _rows(self, indices: Sequence[int]) -> np.ndarray:
        return self.starts(indices)[:, None] + np.arange(self.spec.frames)

    def prompts(self) -> list[str]:
        return [""]


def joined(episodes: np.ndarray, ended: np.ndarray) -> list[np.ndarray]:
    """Runs of episodes that follow one another, each after one that ``ended`` says to have ended by itself."""
    follows = (np.diff(episodes) == 1) & ended[episodes[:-1]]
    return np.split(episodes, np.flatnonzero(~follows) + 1)


def split_episodes(episodes: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Episodes to train on and those held out: about ``share``, chosen by their numbers, at least one of several."""
    if not share or len(episodes) < 2:
        return episodes, episodes[:0]
    apart = min(len(episodes) - 1, max(1, round(share * len(episodes))))
    order = np.argsort(fold(episodes))
    return np.sort(episodes[order[apart:]]), np.sort(episodes[order[:apart]])

"""An environment whose observations are pictures.  Imported where Gymnasium is known to be there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from fromnoise.data.episodes.episode import resized
from fromnoise.data.episodes.world import World, limit, make
from fromnoise.types import UserError

Camera = Callable[[Any], np.ndarray]  # what was observed -> a picture uint8 [h, w, 3]

# Colours of what may stand on a field of MinAtar, one a channel, on black.
PALETTE = np.array([(80, 160, 255), (255, 255, 255), (110, 110, 110), (255, 120, 60), (90, 220, 110), (255, 215, 70),
                    (220, 80, 210), (60, 220, 220), (180, 140, 255), (255, 90, 110)], dtype=np.uint8)


@dataclass(frozen=True)
class Moment:
    """Where an environment was.

    state: a copy of all it remembers, or None where it cannot be copied;  steps: taken since its reset;  past: what led
    here, as (((seed, options), first action), second action) and so on, which moments share as far as they can;  frame:
    its picture;  random: what gives the seeds of resets that name none.
    """

    state: Any
    steps: int
    past: Any = field(repr=False)
    frame: np.ndarray = field(repr=False)
    random: np.random.Generator | None


class Screen(gymnasium.Env):
    """The world in pictures: ``reset`` and ``step`` return uint8 ``[height, width, 3]``.

    What the environment itself observed is ``info["observation"]``.  ``save`` and ``restore`` go back to a moment: by a
    copy of the environment's state or, where that cannot be copied (Box2D), by living through it again from the reset.
    """

    def __init__(self, world: World):
        self.world, self.past = world, None
        self._open()
        self.limit, self.steps = limit(world), 0
        self.action_space = self.env.action_space
        self.observation_space = gymnasium.spaces.Box(0, 255, (world.height, world.width, 3), np.uint8)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": world.fps}
        self.render_mode = "rgb_array"

    def _open(self) -> None:
        """Make the environment and what looks at it."""
        world = self.world
        env = make(world, render=False)
        camera = _own_camera(env, world)
        if camera is None:
            env.close()
            env = make(world, render="rgb_array" in (env.metadata.get("render_modes") or ()))
            camera = _render(env, world)
        self.env, self.inner, self.camera = env, env.unwrapped, camera

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is None and not hasattr(self.inner, "clone_state"):  # which need not be lived through again
            seed = int(self.np_random.integers(2**31))
        if self.past and type(getattr(self.inner, "world", None)).__module__.startswith("Box2D"):
            self._open()  # what was played before is felt over a reset: BipedalWalker keeps its physics
        if hasattr(self.inner, "game") and hasattr(self.inner.game, "last_action"):
            self.inner.game.last_action = 0  # MinAtar repeats the last action of the episode before
        observation, info = self.env.reset(seed=seed, options=options)
        if self.world.id.startswith("ALE/"):  # Pong is drawn once before it sets its colours
            observation, _, _, _, info = self.env.step(0)
        self.steps, self.past = 0, (seed, copy.deepcopy(options))
        self.frame = self._picture(observation)
        return self.frame, {**info, "observation": observation}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        one = np.asarray(action)
        if one.shape == () and one.dtype.kind in "iu":
            action = int(one)  # some environments look a choice up
        total = 0.0
        for _ in range(self.world.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        self.steps, self.past = self.steps + 1, (self.past, copy.copy(action))
        self.frame = self._picture(observation)
        cut = bool(truncated) or (self.limit > 0 and self.steps >= self.limit and not terminated)
        return self.frame, total, bool(terminated), cut, {**info, "observation": observation}

    def render(self) -> np.ndarray:
        """The last frame."""
        return self.frame

    def close(self) -> None:
        self.env.close()

    def save(self) -> Moment:
        """This moment, to which ``restore`` goes back, any number of times: state, randomness and all.

        UserError before the first reset.
        """
        if self.past is None:
            raise UserError("There is no moment to save before the environment is reset.")
        if hasattr(self.inner, "clone_state"):
            state = self.inner.clone_state(include_rng=True)
        else:
            try:
                state = _copied(self.inner.__dict__)
            except Exception:  # something in it is of a library that is not Python's, and each refuses in its own way
                state = None
        return Moment(state, self.steps, self.past, self.frame, copy.deepcopy(self._np_random))

    def restore(self, saved: Moment) -> None:
        """Go back to a moment that ``save`` returned."""
        if saved.state is None:
            self._relive(saved)
        elif hasattr(self.inner, "restore_state"):
            self.inner.restore_state(saved.state)
        else:
            self.inner.__dict__.update(_copied(saved.state))
        self.steps, self.past, self.frame = saved.steps, saved.past, saved.frame
        self._np_random = copy.deepcopy(saved.random)

    def _relive(self, saved: Moment) -> None:
        """Do again all that was done between the reset and this moment."""
        past, done = saved.past, []
        for _ in range(saved.steps):
            past, action = past
            done.append(action)
        seed, options = past
        self.reset(seed=seed, options=options)
        for action in reversed(done):
            self.step(action)

    def _picture(self, observation: Any) -> np.ndarray:
        frame, world = self.camera(observation), self.world
        if world.crop is not None:
            left, top, width, height = world.crop
            if left + width > frame.shape[1] or top + height > frame.shape[0]:
                raise UserError(f"The pictures of {world.id} are {frame.shape[1]}x{frame.shape[0]}, which has no "
                                f"{width}x{height} at {left}, {top}: crop less.")
            frame = frame[top : top + height, left : left + width]
        return resized(frame, world.height, world.width)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """All that an environment remembers; what it draws with cannot be copied, and says nothing of it."""
    canvas = {id(value): value for value in state.values() if type(value).__module__.startswith("pygame")}
    return copy.deepcopy(state, canvas)


def _own_camera(env: Any, world: World) -> Camera | None:
    """How this environment is best looked at, or None where it has to render itself."""
    inner = env.unwrapped
    if hasattr(inner, "get_frame") and hasattr(inner, "agent_view_size"):  # MiniGrid
        return _grid(inner, world)
    if world.view == "partial":
        env.close()
        raise UserError(f"A partial view is of MiniGrid's worlds, and this is {world.id}: leave --view away.")
    space = env.observation_space
    if hasattr(inner, "game") and getattr(space, "dtype", None) == np.bool_ and len(space.shape) == 3:  # MinAtar
        return _field
    if isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and min(space.shape[:2], default=0) >= 16:
        if len(space.shape) == 3 and space.shape[2] == 3:
            return np.asarray
        if len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] == 1):
            return lambda grey: np.repeat(np.asarray(grey).reshape(*space.shape[:2], 1), 3, axis=2)
    return None


def _grid(inner: Any, world: World) -> Camera:
    """MiniGrid drawn at about the size that is wanted, so that little is left to resize."""
    partial = world.view == "partial"

    def picture(_: Any) -> np.ndarray:
        cells = (inner.agent_view_size,) * 2 if partial else (inner.height, inner.width)
        tile = max(3, -(-world.height // cells[0]), -(-world.width // cells[1]))
        return inner.get_frame(tile_size=tile, agent_pov=partial)

    return picture


def _field(state: np.ndarray) -> np.ndarray:
    """MinAtar's ``[10, 10, n]`` of yes and no as colours; a later channel covers an earlier one."""
    top = state.shape[2] - 1 - np.argmax(state[..., ::-1], axis=2)
    return PALETTE[top % len(PALETTE)] * state.any(2, keepdims=True)


def _render(env: Any, world: World) -> Camera:
    """Pictures that the environment draws of itself.  UserError where it draws none."""
    if env.render_mode != "rgb_array":
        space = env.observation_space
        env.close()
        raise UserError(f"{world.id} shows no pictures: what is observed is {space}, and it cannot render rgb_array.")

    def picture(_: Any) -> np.ndarray:
        try:
            frame = np.asarray(env.render())
        except gymnasium.error.DependencyNotInstalled as error:
            raise UserError(f"{world.id} needs a library to draw its pictures: {error}.") from None
        return frame if frame.dtype == np.uint8 else np.clip(frame * 255, 0, 255).round().astype(np.uint8)

    return picture

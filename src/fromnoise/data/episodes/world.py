"""A real environment as a choice written down: enough to make it again, with the same pictures.

Any environment that Gymnasium knows will do (Towers et al., 2024).  Three families are known better: Atari through
ale-py (Machado et al., 2018), MiniGrid (Chevalier-Boisvert et al., 2023) and MinAtar (Young and Tian, 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fromnoise.config import nearest, spec
from fromnoise.data.episodes.actions import Actions, of_space
from fromnoise.data.episodes.needs import need
from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.data.episodes.screen import Screen

Option = bool | int | float | str
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
USUAL_FPS = 10.0  # where an environment does not say how fast it is played


@spec
class World:
    """A real environment and how it is looked at."""

    id: Annotated[str, Field(min_length=1)]
    """Its name in Gymnasium's register, such as ALE/Pong-v5."""
    options: Annotated[dict[str, Option], Field(default_factory=dict)]
    """What it is made with, such as frameskip: 4."""
    view: Literal["full", "partial"] = "full"
    """The whole grid or, of MiniGrid, what the agent sees of it."""
    crop: tuple[Count, Count, Size, Size] | None = None
    """What is kept of its pictures before they are resized: left, top, width and height in its own pixels."""
    height: Annotated[int, Field(ge=8, le=4096)] = 64
    """Height of its pictures in pixels."""
    width: Annotated[int, Field(ge=8, le=4096)] = 64
    """Width of its pictures in pixels."""
    fps: Annotated[float, Field(ge=0)] = 0.0
    """Frames a second at which people play it; 0: as it says itself, over ``repeat``."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Steps, as recorded, after which an episode is cut off; 0: as it says itself, over ``repeat`` and rounded up."""
    repeat: Annotated[int, Field(ge=1)] = 1
    """Steps of the environment itself that an action is held for: one step here, of which the last picture is seen."""


@dataclass(frozen=True)
class Family:
    """Environments that need a library to be imported before they can be made.

    prefixes: with which their ids begin;  usual: options that differ from their own defaults.
    """

    what: str
    package: str
    module: str
    prefixes: tuple[str, ...]
    usual: dict[str, Option] = field(default_factory=dict)

    def register(self) -> None:
        """Make the ids known to Gymnasium.  UserError where the library is not installed."""
        module = need(self.module, f"{self.what} need", self.package)
        if self.module == "ale_py":
            module.ALEInterface.setLoggerMode(module.LoggerMode.Error)  # no banner
        if self.module == "minatar.gym":
            _quietly(module.register_envs)


# What the choices of Gymnasium's own worlds are called, which these do not say: keys to play them with.
CALLED: dict[str, tuple[str, ...]] = {
    "CarRacing": ("NOOP", "RIGHT", "LEFT", "UP", "DOWN"), "LunarLander": ("NOOP", "LEFT", "UP", "RIGHT"),
    "CartPole": ("LEFT", "RIGHT"), "MountainCar": ("LEFT", "NOOP", "RIGHT"), "Acrobot": ("LEFT", "NOOP", "RIGHT"),
    "FrozenLake": ("LEFT", "DOWN", "RIGHT", "UP"), "CliffWalking": ("UP", "RIGHT", "DOWN", "LEFT")}

# No action is repeated against the player's will, so that what is seen follows from what was done.
FAMILIES = (
    Family("Atari games", "ale-py", "ale_py", ("ALE/",), {"frameskip": 4, "repeat_action_probability": 0.0}),
    Family("MiniGrid's worlds", "minigrid", "minigrid", ("MiniGrid-", "BabyAI-")),
    Family("MinAtar's games", "MinAtar", "minatar.gym", ("MinAtar/",), {"sticky_action_prob": 0.0}),
)


def family(name: str) -> Family | None:
    """The family that an environment belongs to by its id."""
    return next((f for f in FAMILIES if name.startswith(f.prefixes)), None)


def settled(world: World) -> World:
    """The world with the usual options of its family and its frame rate written down.

    UserError where it is not known, not installed, or has no pictures.
    """
    usual = dict(of.usual) if (of := family(world.id)) else {}
    world = replace(world, options=usual | world.options)
    if world.fps:
        return world
    screen = environment(world)
    try:
        return replace(world, fps=_own_fps(screen, world))
    finally:
        screen.close()


def environment(world: World) -> Screen:
    """The environment as a ``gymnasium.Env`` whose observations are its pictures, uint8 ``[height, width, 3]``.

    It gives the frames that a recording of this world holds.  What it observed itself is ``info["observation"]``.
    UserError where it is not known, not installed, or has no pictures.
    """
    need("gymnasium", "Real environments need")
    from fromnoise.data.episodes.screen import Screen

    return Screen(world)


def actions_of(screen: Screen) -> Actions:
    """What can be done in an environment.  UserError where that is of a kind not known here."""
    inner, meanings = screen.inner, ()
    if hasattr(inner, "get_action_meanings"):
        meanings = tuple(inner.get_action_meanings())
    elif hasattr(inner, "actions") and hasattr(inner.actions, "__members__"):
        meanings = tuple(inner.actions.__members__)
    elif hasattr(inner, "action_set") and hasattr(inner, "game"):  # MinAtar
        meanings = tuple(inner.game.env.action_map[i] for i in inner.action_set)
    elif called := next((CALLED[name] for name in CALLED if screen.world.id.startswith(name)), ()):
        meanings = called if getattr(screen.action_space, "n", 0) == len(called) else ()
    return of_space(screen.action_space, screen.world.id, meanings)


def make(world: World, render: bool) -> Any:
    """The bare environment, without its own limit of steps.  UserError where that cannot be."""
    import gymnasium

    if of := family(world.id):
        of.register()
    try:
        return _quietly(lambda: gymnasium.make(
            world.id, max_episode_steps=-1, disable_env_checker=True, render_mode="rgb_array" if render else None,
            **world.options))  # type: ignore[arg-type]
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"{world.id} needs a library that is not installed: {error}.") from None
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
        raise UserError(f'There is no environment "{world.id}". {_like(world.id, error)}') from None
    except TypeError as error:
        given = ", ".join(f"{key}={value}" for key, value in world.options.items())
        raise UserError(f"{world.id} cannot be made with {given or 'no options'}: {error}.") from None


def limit(world: World) -> int:
    """Steps after which an episode is cut off; 0 for never."""
    import gymnasium

    name = world.id.rpartition(":")[2]  # it is registered without the module that registers it
    return world.limit or -(-(gymnasium.spec(name).max_episode_steps or 0) // world.repeat)


def _own_fps(screen: Screen, world: World) -> float:
    """How fast an environment is played: an Atari console draws 60 frames a second, of which some are skipped."""
    if world.id.startswith("ALE/"):
        return 60 / int(world.options["frameskip"]) / world.repeat
    return float(screen.env.metadata.get("render_fps") or USUAL_FPS) / world.repeat


def _like(name: str, error: Exception) -> str:
    """What could have been meant."""
    import gymnasium

    if isinstance(error, gymnasium.error.UnregisteredEnv | ModuleNotFoundError):
        for each in FAMILIES:
            if each.prefixes[0].rstrip("-/").lower() in name.lower():
                each.register()
        known = [key for key in gymnasium.registry if ":" not in key and not key.startswith("GymV")]
        hint = nearest(name, known)
        return hint if hint.startswith("Did") else ("An environment in a module of yours is module:Name, once "
                                                    "gymnasium.register has named it.")
    return f"{error}"


def _quietly(does: Callable[[], Any]) -> Any:
    """Do it without Gymnasium's warnings: ids that are registered already, or of another version."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return does()

"""``make`` a world: from a run folder to an environment of Gymnasium."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromnoise.types import UserError

if TYPE_CHECKING:
    from fromnoise.data.episodes import Episodes
    from fromnoise.generate import Model
    from fromnoise.worlds.beginnings import Beginnings
    from fromnoise.worlds.dream import Dream
    from fromnoise.worlds.env import WorldEnv
    from fromnoise.worlds.vector import WorldVectorEnv

SHIPPED = Path(__file__).parent / "shipped"  # a run folder that comes with the package


def make(run: str | Path | None = None, *, limit: int = 0, render_mode: str | None = "rgb_array", device: str = "auto",
         **choices: Any) -> WorldEnv:
    """The world of a run as a ``gymnasium.Env``; without a run, the one that comes with fromnoise.

    limit: steps after which an episode is cut off, 0 for never;  choices: those of ``Dream`` (steps, guidance, context,
    sink, history, solver), as the recipe says unless given.  UserError for a run that is no world.
    """
    need_gymnasium()
    from fromnoise.worlds.env import WorldEnv

    opened = open_world(run, device)
    return WorldEnv(opened.dream(**choices), opened.beginnings, limit, render_mode)


def make_vec(run: str | Path | None = None, rows: int = 1, *, limit: int = 0, device: str = "auto",
             **choices: Any) -> WorldVectorEnv:
    """``rows`` worlds of a run, stepped in one pass of the network, as a ``gymnasium.vector.VectorEnv``.

    A row that ended begins anew with the next step.  Row i is the environment of ``make`` under its seed.
    """
    need_gymnasium()
    from fromnoise.worlds.vector import WorldVectorEnv

    opened = open_world(run, device)
    return WorldVectorEnv(opened.dream(**choices), rows, opened.beginnings, limit)


def need_gymnasium() -> None:
    """UserError naming the extra where Gymnasium is not installed."""
    from fromnoise.data.episodes.needs import need

    need("gymnasium", "A world as an environment needs")


@dataclass(frozen=True)
class Opened:
    """A run that is a world.

    run: its folder;  model: what it learned;  data: what it learned from, which need not be there any more.
    """

    run: Path
    model: Model
    data: Episodes

    def dream(self, **choices: Any) -> Dream:
        """The world, ready to be stepped.  UserError where it cannot be."""
        from fromnoise.worlds.dream import Dream

        return Dream(self.model, **choices)

    def beginnings(self) -> Beginnings:
        """Real beginnings, read once.  UserError where the run has none and its data are not there."""
        return self._beginnings

    @cached_property
    def _beginnings(self) -> Beginnings:
        from fromnoise.worlds.beginnings import of_run

        return of_run(self.run, self.data)


def open_world(run: str | Path | None = None, device: str = "auto") -> Opened:
    """The world in a run folder, or the one that comes with fromnoise.  UserError where there is none."""
    from fromnoise.data.episodes import Episodes
    from fromnoise.opening import load_model
    from fromnoise.recipe import load_diffusion
    from fromnoise.system import run_recipe

    folder = shipped() if run is None else Path(run)
    data = load_diffusion(run_recipe(folder)).data
    if not isinstance(data, Episodes):
        raise UserError(f"{folder} is no world: it was trained on {data.kind}, where nobody acts. A world is trained "
                        "on --data episodes.")
    return Opened(folder, load_model(folder, device), data)


def shipped() -> Path:
    """The world that comes with fromnoise.  UserError where this installation has none."""
    if not (SHIPPED / "recipe.json").is_file():
        raise UserError("No world comes with this installation: name a run folder of one that you trained, such as "
                        "runs/pong.")
    return SHIPPED

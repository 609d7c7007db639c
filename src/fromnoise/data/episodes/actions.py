"""What may be done in an environment: one choice of several, several switches, or numbers in a range."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic_core import PydanticCustomError

from fromnoise.config import spec
from fromnoise.types import Acts, UserError


@spec
class Unsaid:
    """Not said yet: the recording itself tells it when it is opened."""

    kind: Literal["unsaid"] = "unsaid"

    acts: ClassVar[None] = None


@spec
class Discrete:
    """One of ``n`` choices; an action is an integer from 0 on, and -1 where there was none."""

    kind: Literal["discrete"] = "discrete"
    n: Annotated[int, Field(ge=1)] = 1
    """How many choices there are."""
    meanings: tuple[str, ...] = ()
    """What each of them is called, where the environment tells."""

    shape: ClassVar[tuple[int, ...]] = ()
    dtype: ClassVar[type] = np.int64
    none: ClassVar[int | float] = -1

    def __post_init__(self):
        if len(self.meanings) not in (0, self.n):
            raise PydanticCustomError("meanings", "should name all choices or none")

    @property
    def acts(self) -> Acts:
        """What a network must know of them."""
        return Acts(choices=self.n)

    def holds(self, action: np.ndarray) -> bool:
        """Whether this is an action."""
        return action.shape == () and action.dtype.kind in "iu" and bool(0 <= action < self.n)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Any action, all alike."""
        return rng.integers(self.n)  # type: ignore[return-value]

    def __str__(self) -> str:
        return f"{self.n} choices" + (f" ({', '.join(self.meanings)})" if self.meanings else "")


@spec
class MultiBinary:
    """``n`` switches; an action is 0 or 1 for each, and NaN where there was none."""

    kind: Literal["multi_binary"] = "multi_binary"
    n: Annotated[int, Field(ge=1)] = 1
    """How many switches there are."""
    meanings: tuple[str, ...] = ()
    """What each of them is called."""

    dtype: ClassVar[type] = np.float32
    none: ClassVar[int | float] = float("nan")

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.n,)

    @property
    def acts(self) -> Acts:
        """What a network must know of them."""
        return Acts(switches=self.n)

    def holds(self, action: np.ndarray) -> bool:
        """Whether this is an action."""
        return action.shape == self.shape and bool(np.isin(action, (0, 1)).all())

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Any action, all alike."""
        return rng.integers(2, size=self.n).astype(np.float32)

    def __str__(self) -> str:
        return f"{self.n} switches"


@spec
class Continuous:
    """Numbers, each in a range of its own; an action is NaN where there was none."""

    kind: Literal["continuous"] = "continuous"
    low: tuple[float, ...] = (-1.0,)
    """The least each number can be."""
    high: tuple[float, ...] = (1.0,)
    """The most each number can be."""

    dtype: ClassVar[type] = np.float32
    none: ClassVar[int | float] = float("nan")

    def __post_init__(self):
        if len(self.low) != len(self.high) or any(a > b for a, b in zip(self.low, self.high, strict=True)):
            raise PydanticCustomError("low", "should have a low and a high for each number, the high not below the low")

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.low),)

    @property
    def acts(self) -> Acts:
        """What a network must know of them."""
        return Acts(low=self.low, high=self.high)

    def holds(self, action: np.ndarray) -> bool:
        """Whether this is an action."""
        low, high = np.array(self.low, np.float32), np.array(self.high, np.float32)
        return action.shape == self.shape and bool(((low <= action) & (action <= high)).all())

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Any action, all alike."""
        return rng.uniform(self.low, self.high).astype(np.float32)

    def __str__(self) -> str:
        return f"{len(self.low)} numbers"


Actions = Discrete | MultiBinary | Continuous
MaybeActions = Annotated[Unsaid | Discrete | MultiBinary | Continuous, Field(discriminator="kind")]


def of_space(space: Any, what: str, meanings: tuple[str, ...] = ()) -> Actions:
    """The actions of a Gymnasium space.  UserError for one of another kind, naming ``what`` has it.

    Numbers without a bound are taken to lie in [-1, 1], where random policies draw them.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete) and space.start == 0:
        return Discrete(n=int(space.n), meanings=meanings if len(meanings) == space.n else ())
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int | np.integer):
        return MultiBinary(n=int(space.n))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype is not None and space.dtype.kind == "f":
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        low, high = np.where(bounded, space.low, -1.0), np.where(bounded, space.high, 1.0)
        return Continuous(low=tuple(low.tolist()), high=tuple(high.tolist()))
    raise UserError(f"The actions of {what} are {space}: only one choice counted from 0 (Discrete), switches "
                    "(MultiBinary) and a row of numbers (Box) are known.")


def of_values(values: np.ndarray) -> Actions:
    """The actions that a record of them ``[N]`` or ``[N, A]`` shows, where nobody says what they are.

    Whole numbers in one column are choices, zeros and ones in several are switches, anything else is continuous.
    """
    column = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    if column.ndim == 1 and column.dtype.kind in "iub" and column.min() >= 0:
        return Discrete(n=int(column.max()) + 1)
    values = values.reshape(len(values), -1)
    if values.shape[1] > 1 and np.isin(values, (0, 1)).all():
        return MultiBinary(n=values.shape[1])
    return Continuous(low=tuple(values.min(0).tolist()), high=tuple(values.max(0).tolist()))


def as_rows(actions: Actions, values: np.ndarray) -> np.ndarray:
    """A record of actions in the shape and type of ``actions``: ``[N]`` or ``[N, A]``."""
    return np.ascontiguousarray(values, dtype=actions.dtype).reshape(len(values), *actions.shape)

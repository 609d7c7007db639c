"""What a caller is told of training: on the way, and at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fromnoise.system import Built


@dataclass
class Hooks:
    """What a caller is told while training goes on.  All are optional."""

    message: Callable[[str], None] = lambda text: None
    started: Callable[[Built, int], None] = lambda system, step: None
    progress: Callable[[dict], None] = lambda line: None
    preview: Callable[[Built, int], None] = lambda system, step: None
    encoding: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class Result:
    """How a run ended.  ``steps_done`` counts this call; seconds and core_seconds the whole run."""

    system: Built = field(repr=False)
    step: int
    steps_done: int
    seconds: float
    core_seconds: float
    loss: float

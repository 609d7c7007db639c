"""What was measured of a world, each figure beside those of a perfect one and of one that knows nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fromnoise.files import write_text

FOLDER, NAME = "measured", "measures.json"  # in the run folder


@dataclass(frozen=True)
class Figure:
    """One measurement.

    low, high: its 95 % interval over states or rollouts;  real: the same of the real environment, what a perfect world
    would show;  null: of a world without skill, which the note names;  goal: what a good world reaches, and met whether
    this one does;  format: how all of them are printed.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    real: float | None = None
    null: float | None = None
    format: str = ".2f"
    goal: str = ""
    met: bool | None = None
    note: str = ""

    def words(self) -> tuple[str, str, str, str, str]:
        """Value, interval, real, null and goal as they are printed."""
        def said(value: float | None) -> str:
            return "" if value is None else format(value, self.format)

        interval = "" if self.low is None else f"{said(self.low)} to {said(self.high)}"
        goal = self.goal if self.met is None else f"{self.goal}: {'yes' if self.met else 'no'}"
        return said(self.value), interval, said(self.real), said(self.null), goal


@dataclass(frozen=True)
class Measured:
    """All figures of a world.

    settings: how it was stepped and on how much it was measured;  seconds: what each part of the measuring took;
    note: what could not be measured, and why.
    """

    figures: list[Figure]
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def __getitem__(self, name: str) -> Figure:
        return next(figure for figure in self.figures if figure.name == name)

    @property
    def how(self) -> str:
        """How it was measured, on one line."""
        settings = [f"{name.replace('_', ' ')} {value}" for name, value in self.settings.items()]
        spent = [f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items()]
        return f"{', '.join(settings)}. {', '.join(spent)}."

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Measured:
        """What ``to_dict`` gave.  TypeError or KeyError for anything else."""
        return Measured([Figure(**figure) for figure in data["figures"]], data["settings"], data["seconds"],
                        data["note"])

    def save(self, run: Path) -> None:
        """Keep it in a run folder."""
        write_text(run / FOLDER / NAME, json.dumps(self.to_dict(), indent=2) + "\n")

    def table(self):
        """A ``rich`` table for the terminal."""
        from rich.table import Table

        table = Table(caption=f"{self.how} {self.note}", caption_justify="left")
        for name, justify in (("measure", "left"), ("world", "right"), ("95 %", "right"), ("real", "right"),
                              ("null", "right"), ("goal", "left"), ("note", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for figure in self.figures:
            table.add_row(figure.name, *figure.words(), figure.note)
        return table


def interval(statistic: Callable[[np.ndarray], float], count: int, times: int = 1000,
             seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic of ``count`` units (Efron 1979): percentiles over draws of as many.

    statistic: of the places ``[count]`` of units that were drawn, some of them more than once.
    """
    random = np.random.Generator(np.random.Philox(seed))
    found = [statistic(random.integers(count, size=count)) for _ in range(times)]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)

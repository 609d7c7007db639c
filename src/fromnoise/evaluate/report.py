"""What was measured, beside what real data measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fromnoise.evaluate.panel import Panel


@dataclass(frozen=True)
class Row:
    """One measurement.

    value: of the generated pictures;  real: the same of real pictures, where that makes sense: what a
    perfect model would show;  format: how both are printed;  better: "higher", "lower" or "near", where
    near means near to ``real``.
    """

    name: str
    value: float
    real: float | None = None
    format: str = ".3f"
    better: str = "higher"
    note: str = ""

    def words(self) -> tuple[str, str]:
        """``value`` and ``real`` as they are printed."""
        return format(self.value, self.format), "" if self.real is None else format(self.real, self.format)


@dataclass(frozen=True)
class Report:
    """All rows of an evaluation, and how they were measured.

    settings: how the pictures were made (solver, steps, guidance, shift, seed), as far as it is known;  panel: every
    metric of the distribution beside its null, where there were enough pictures.
    """

    rows: list[Row]
    samples: int
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    panel: Panel | None = None

    def __getitem__(self, name: str) -> float:
        return next(row.value for row in self.rows if row.name == name)

    @property
    def how(self) -> str:
        """What was measured, on one line: "512 samples, dpmpp_2m, 20 steps, guidance 6"."""
        known = self.settings
        words = [f"{self.samples} samples"]
        if "solver" in known:
            words += [known["solver"], f"{known['steps']} steps", f"guidance {known['guidance']:g}"]
        if known.get("grid", "uniform") != "uniform":
            words.append(f"{known['grid']} grid")
        if known.get("tasks"):
            words.append(f"{known['tasks']} clips of each task")
        words += [f"{name} {known[name]:g}" for name, usual in (("augment", 0), ("shift", 1), ("seed", 0))
                  if known.get(name, usual) != usual]
        return ", ".join(words)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Report:
        """The report that ``to_dict`` gave.  ValueError, TypeError or KeyError for anything else."""
        rows = [Row(**row) for row in data["rows"]]
        for row in rows:
            row.words()
        panel = Panel.from_dict(data["panel"]) if data.get("panel") else None
        return Report(rows, int(data["samples"]), str(data["note"]), dict(data["settings"]), panel)

    def table(self):
        """A ``rich`` table for the terminal."""
        from rich.table import Table

        table = Table(caption=f"{self.how}. {self.note}", caption_justify="left")
        for name, justify in (("measure", "left"), ("generated", "right"), ("real", "right"), ("better", "left"),
                              ("note", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(row.name, *row.words(), row.better, row.note)
        return table

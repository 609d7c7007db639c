"""What was measured, beside what real data measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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


@dataclass(frozen=True)
class Report:
    """All rows of an evaluation, and how they were measured."""

    rows: list[Row]
    samples: int
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return next(row.value for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Report:
        return Report([Row(**row) for row in data["rows"]], data["samples"], data["note"], data["settings"])

    def table(self):
        """A ``rich`` table for the terminal."""
        from rich.table import Table

        table = Table(caption=f"{self.samples} samples. {self.note}", caption_justify="left")
        for name, justify in (("measure", "left"), ("generated", "right"), ("real", "right"), ("better", "left"),
                              ("note", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for row in self.rows:
            real = "" if row.real is None else format(row.real, row.format)
            table.add_row(row.name, format(row.value, row.format), real, row.better, row.note)
        return table

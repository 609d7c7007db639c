"""What a comparison found: each measure of each variant, as mean and standard error over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from fromnoise.compare.match import operations, size_of
from fromnoise.compare.runs import Job
from fromnoise.train.metrics import read_metrics


@dataclass(frozen=True)
class Value:
    """A measure over seeds.

    mean;  error: standard error of the mean, the standard deviation of the seeds over the root of their number, None
    for a single seed;  seeds: the values themselves;  format, better: as in the report's rows.
    """

    mean: float
    error: float | None
    seeds: list[float]
    format: str = ".3f"
    better: str = "higher"

    def words(self) -> str:
        """``88.1 ± 1.2 %``, or the mean alone."""
        mean = format(self.mean, self.format)
        return mean if self.error is None else f"{mean} ± {format(self.error, self.format)}"

    def real_words(self, real: float | None) -> str:
        """What real data measure, printed alike."""
        return "" if real is None else format(real, self.format)


@dataclass(frozen=True)
class Outcome:
    """One variant.

    parameters: of the network;  steps: of training;  operations: multiplications and additions of all its training;
    core_seconds: of a run, with evaluation left out;  measures: by name.
    """

    name: str
    parameters: int
    steps: int
    operations: float
    core_seconds: float
    measures: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All variants, the best by the first measure first; real: what real data measure."""

    outcomes: list[Outcome]
    real: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def measures(self) -> list[str]:
        return list(self.outcomes[0].measures) if self.outcomes else []

    def to_dict(self) -> dict:
        return asdict(self)

    def markdown(self, measures: Sequence[str] = ()) -> str:
        """A table; by default of all measures."""
        names = list(measures or self.measures)
        head = ["variant", "parameters", "steps", "operations", "core-seconds", *names]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        for one in self.outcomes:
            cells = [f"`{one.name}`", f"{one.parameters / 1e6:.2f} M", f"{one.steps:,}", f"{one.operations:.2e}",
                     f"{one.core_seconds:,.0f}", *(one.measures[name].words() for name in names)]
            lines.append(f"| {' | '.join(cells)} |")
        if self.real:
            cells = ["real data", "", "", "", "",
                     *(self.outcomes[0].measures[name].real_words(self.real.get(name)) for name in names)]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def summarise(values: Sequence[float], form: str = ".3f", better: str = "higher") -> Value:
    """Mean and standard error of the values of several seeds; the mean of whole numbers is none."""
    form = ".1f" if form == "d" else form
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Value(statistics.fmean(values), error, list(values), form, better)


def gather(jobs: Sequence[Job]) -> Comparison:
    """The finished runs among ``jobs``; a variant of which none is finished is left out."""
    found: list[Outcome] = []
    real: dict[str, float] = {}
    note = ""
    for name in dict.fromkeys(job.variant for job in jobs):
        done = [(job, report) for job in jobs if job.variant == name and (report := job.report()) is not None]
        if not done:
            continue
        rows = done[0][1].rows
        real |= {row.name: row.real for row in rows if row.real is not None}
        note = note or done[0][1].how
        measures = {row.name: summarise([report[row.name] for _, report in done], row.format, row.better)
                    for row in rows}
        recipe = done[0][0].recipe
        found.append(Outcome(name, size_of(recipe).parameters, recipe.train.steps, operations(recipe),
                             statistics.fmean(core_seconds(job) for job, _ in done), measures))
    return Comparison(sorted(found, key=rank), real, note)


def rank(outcome: Outcome) -> float:
    """By the first measure, the best first."""
    first = next(iter(outcome.measures.values()))
    return first.mean if first.better == "lower" else -first.mean


def core_seconds(job: Job) -> float:
    """What the training of a run took."""
    lines = read_metrics(job.out / "metrics.jsonl")
    return float(lines[-1]["core_seconds"]) if lines else float("nan")

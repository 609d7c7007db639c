"""Every metric of two sets of points, each beside what it measures between real points and real points.

One number cannot tell whether a model is right, and a number without its null tells nothing: Frechet and sliced
Wasserstein distances are above zero for a perfect model, and every metric moves by chance.  So for each of
several repeats the real points are split into a reference and a stand-in of as many points as were generated.  What
the stand-in measures against the reference is the null; what the generated points measure against the same reference
is the value;

    z = (mean value - mean null) / (std null sqrt(1 + 1 / repeats)),    with the sign that says worse.

Under the hypothesis that the generated points are real, a value and a null have one distribution, and the mean of
the values is no more spread than one null.  The spread is known from few repeats, so z has Student's distribution with
repeats - 1 degrees of freedom, which gives each row its p: the probability of as large a |z| by chance.

Many rows are many chances, so the panel's own verdict is Bonferroni's: p = rows times the least p of a row, and the two
sets differ where that is at most 5 %.  |z| of 5 on a row is a stricter, plainer sign; both were measured
(benchmarks/defects.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fromnoise.evaluate.distances import whitening
from fromnoise.evaluate.metrics import METRICS, SPACES, Better, Metric, nearest_distance
from fromnoise.evaluate.points import Points
from fromnoise.types import UserError

FEWEST = 20  # points on either side below which nothing is measured
AT_ONCE = 2000  # points whose likelihood or mode is asked for at a time
REFERENCE = 3  # at most so many times as many points has the reference: beyond that its own noise is small
FLAG = 5.0  # standard deviations of the null beyond which one row alone is no chance
LEVEL = 0.05  # share of panels of real points that may be told apart from real points
REPEATS = 16  # of the null: with 8 the standard deviation itself is off by a quarter


@dataclass(frozen=True)
class PanelRow:
    """One metric in one space.

    value: its mean over the references;  null, std: mean and standard deviation of the same between real points;
    z: by how many ``std`` the value is worse than the null (better, below 0);  p: the probability of as large a |z|
    between real points, for this row alone.
    """

    metric: str
    space: str
    value: float
    null: float
    std: float
    z: float
    p: float
    better: Better

    @property
    def name(self) -> str:
        return self.metric if METRICS[self.metric].spaces == ("raw",) else f"{self.metric}, {self.space}"

    @property
    def flagged(self) -> bool:
        return abs(self.z) >= FLAG


@dataclass(frozen=True)
class Panel:
    """All rows.  size: generated points that were compared;  reference: real points each time;  repeats: how often."""

    rows: list[PanelRow]
    size: int
    reference: int
    repeats: int

    def __getitem__(self, name: str) -> PanelRow:
        """The row of a name as the table prints it: "energy distance, raw", "NLL difference"."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; there are {', '.join(row.name for row in self.rows)}")

    @property
    def flagged(self) -> list[PanelRow]:
        """Rows beyond chance, the farthest first."""
        return sorted((row for row in self.rows if row.flagged), key=lambda row: -abs(row.z))

    @property
    def p(self) -> float:
        """At most the probability that real points look as different from real points as the worst row says."""
        return min(1.0, len(self.rows) * min((row.p for row in self.rows), default=1.0))

    @property
    def differs(self) -> bool:
        """Whether generated and real points can be told apart, with a false alarm in at most ``LEVEL`` of panels."""
        return self.p <= LEVEL

    @property
    def verdict(self) -> str:
        """In words: "Told apart from real, most by coverage, raw (p = 0.002)."."""
        if not self.differs:
            return f"Not told apart from real (p = {self.p:.2g})."
        worst = min(self.rows, key=lambda row: (row.p, -abs(row.z)))
        return f"Told apart from real, most by {worst.name} (p = {max(self.p, 1e-9):.1g})."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Panel:
        return Panel([PanelRow(**row) for row in data["rows"]], data["size"], data["reference"], data["repeats"])

    def table(self):
        """A ``rich`` table for the terminal."""
        from rich.table import Table

        caption = (f"{self.size} against {self.reference} points; null: real against real, {self.repeats} repeats; "
                   f"z above 0 is worse, beyond {FLAG:g} no chance. {self.verdict}")
        table = Table(caption=caption, caption_justify="left")
        for name in ("measure", "space", "generated", "null", "better", "z"):
            table.add_column(name, justify="left" if name in ("measure", "space", "better") else "right")
        for row in self.rows:
            style = None if not row.flagged else "red" if row.z > 0 else "yellow"
            table.add_row(row.metric, row.space, f"{row.value:.4g}", f"{row.null:.4g} ± {row.std:.2g}", row.better,
                          f"{row.z:.1f}", style=style)
        return table


def panel(generated: Tensor, real: Tensor, *, null_repeats: int = REPEATS,
          log_prob: Callable[[Tensor], Tensor] | None = None, mode: Callable[[Tensor], Tensor] | None = None,
          train: Tensor | None = None, features: Callable[[Tensor], Tensor] | None = None,
          metrics: Collection[str] | None = None, spaces: Collection[str] | None = None, seed: int = 0) -> Panel:
    """The panel of ``generated`` ``[n, ...]`` against ``real`` ``[m, ...]``, points or pictures.

    Real points are split, so the smaller of n and m / 2 are compared: give twice as many real points as generated
    ones, held out from training, or, for a sharper look, four times as many.

    log_prob: exact log-likelihood ``[n]`` of points;  mode: the mode of each, integers ``[n]`` from 0;  train:
    training examples ``[k, ...]``, to look for copies among;  features: points ``[n, ...]`` to ``[n, F]``, such as
    an extractor of ``fromnoise.evaluate.extractors``;  metrics: names in ``METRICS``, and spaces: of "raw", "whitened"
    and "features", by default all that the rest allows;  the same ``seed`` gives the same panel.
    Cost: 80 core-seconds a space for 5,000 against 15,000 points in 64-D; it grows as n^2 and with the repeats.
    UserError where there are too few points, shapes differ, or numbers are not finite.
    """
    _check(generated, real, train, null_repeats)
    given = {"log_prob": log_prob, "mode": mode, "nearest": train}
    wanted, spaces = _wanted(metrics, given), _wanted_spaces(spaces, features is not None)
    used = {name: given[name] for name in given.keys() & {metric.needs for metric in wanted}}
    size = min(len(generated), len(real) // 2)
    last = min(len(real), (1 + REFERENCE) * size)
    random = torch.Generator().manual_seed(seed)
    splits = [(torch.randperm(len(real), generator=random), torch.randperm(len(generated), generator=random))
              for _ in range(null_repeats)]
    rows = []
    for space, made, true in _spaces(generated, real, features, **used):
        if space not in spaces:
            continue
        here = [metric for metric in wanted if space in metric.spaces]
        values, nulls = [], []
        for of_real, of_made in splits:
            sets = true.take(of_real[size:last]), true.take(of_real[:size]), made.take(of_made[:size])
            reference, stand_in, points = _whitened(*sets) if space == "whitened" else sets
            values.append([metric.measure(points, reference) for metric in here])
            nulls.append([metric.measure(stand_in, reference) for metric in here])
        columns = zip(here, zip(*values, strict=True), zip(*nulls, strict=True), strict=True)
        rows += [_row(metric, space, torch.tensor(v), torch.tensor(n), size) for metric, v, n in columns]
    order = list(METRICS)
    return Panel(sorted(rows, key=lambda row: order.index(row.metric)), size, last - size, null_repeats)


def _wanted(names: Collection[str] | None, given: dict[str, Any]) -> list[Metric]:
    """The metrics of these names, or all for which enough is given."""
    missing = {name for name, what in given.items() if what is None}
    if names is None:
        return [metric for metric in METRICS.values() if metric.needs not in missing]
    for name in names:
        if name not in METRICS:
            raise UserError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
        if METRICS[name].needs in missing:
            needs = METRICS[name].needs.replace("nearest", "train")
            raise UserError(f"{name} cannot be measured without {needs}.")
    return [metric for metric in METRICS.values() if metric.name in names]


def _wanted_spaces(names: Collection[str] | None, features: bool) -> Collection[str]:
    """The spaces of these names, or all there are."""
    for name in names or ():
        if name not in SPACES:
            raise UserError(f"There is no space {name!r}; there are {', '.join(SPACES)}.")
        if name == "features" and not features:
            raise UserError("The space of features cannot be looked at without features.")
    return SPACES if names is None else names


def _row(metric: Metric, space: str, values: Tensor, nulls: Tensor, size: int) -> PanelRow:
    value, null = float(values.double().mean()), float(nulls.double().mean())
    std = float(nulls.double().std())
    least = max(std, metric.step / size, 1e-9 * abs(null), 1e-30)  # no null is known more exactly than that
    z = metric.worse(value - null) / (least * (1 + 1 / len(nulls)) ** 0.5)
    return PanelRow(metric.name, space, value, null, std, z, chance(z, len(nulls)), metric.better)


def chance(z: float, repeats: int) -> float:
    """The probability of |z| or more by chance, z being known from so many repeats: both tails of Student's t."""
    from scipy.stats import t

    return float(2 * t.sf(abs(z), repeats - 1))


def _spaces(generated: Tensor, real: Tensor, features: Callable[[Tensor], Tensor] | None, nearest: Tensor | None = None,
            **of_each: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, Points, Points]]:
    """(name of the space, generated points, real points), with what ``of_each`` and the nearest example say of each."""
    def known(look: Callable[[Tensor], Tensor], **fields: Callable[[Tensor], Tensor]) -> tuple[Points, Points]:
        """Generated and real points as ``look`` sees them."""
        among = None if nearest is None else flat(look(nearest))
        sets = ((flat(look(x)), {name: _each(f, x) for name, f in fields.items()}) for x in (generated, real))
        made, true = (Points(x, **more, nearest=None if among is None else nearest_distance(x, among))
                      for x, more in sets)
        if true.nearest is not None and float(true.nearest.median()) <= 1e-6 * float(true.x.norm(dim=1).median()):
            raise UserError("Half of the real points are training examples, so copying cannot be measured: give real "
                            "points that were held out.")
        return made, true

    made, true = known(lambda x: x, **of_each)
    yield "raw", made, true
    yield "whitened", made, true
    if features is not None:
        yield "features", *known(features)


def _each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A function of each point, a few at a time."""
    return torch.cat([function(part).detach().cpu() for part in x.split(AT_ONCE)])


def flat(x: Tensor) -> Tensor:
    """Points or pictures ``[n, ...]`` as float32 points ``[n, D]`` in main memory."""
    return x.detach().flatten(1).float().cpu()


def _whitened(reference: Points, *others: Points) -> list[Points]:
    """The sets in the space in which the reference is white.

    Fitted on the reference alone: the stand-in then stands to it as the generated points do.
    """
    white = whitening(reference.x)
    return [Points(white(points.x)) for points in (reference, *others)]


def _check(generated: Tensor, real: Tensor, train: Tensor | None, null_repeats: int) -> None:
    if null_repeats < 2:
        raise UserError(f"A null needs at least 2 repeats (got {null_repeats}).")
    for name, x in (("generated", generated), ("real", real), ("train", train)):
        if x is None:
            continue
        if x.ndim < 2 or x.shape[1:] != real.shape[1:]:
            raise UserError(f"{name} points have the shape {list(x.shape)}; they should be [n, D] or pictures, of the "
                            f"shape {list(real.shape[1:])} each as the real ones are.")
        if not bool(torch.isfinite(x).all()):
            raise UserError(f"Some of the {name} points hold NaN or infinity, so they cannot be measured.")
    if len(generated) < FEWEST or len(real) < 2 * FEWEST:
        raise UserError(f"{len(generated)} generated and {len(real)} real points are too few: {FEWEST} and "
                        f"{2 * FEWEST} are the least.")
    if train is not None and not len(train):
        raise UserError("There are no training examples to look for copies among: leave train out.")

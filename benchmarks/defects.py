"""Which metric notices which defect: the table of planted defects, and how often a perfect model is accused.

    python benchmarks/defects.py [--nulls 24] [--jobs 2]

Each panel compares as many points as the defect states with up to three times as many true ones, in the 64-D mixture
of 16 modes; a null panel compares fresh true points instead.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from statistics import mean

import torch
from rich.console import Console
from rich.table import Table

from fromnoise.analytic import anisotropic
from fromnoise.evaluate import DEFECTS, Panel, panel
from fromnoise.random import generator

NULL = "nothing (false alarms)"


def judge(work: tuple[str, int]) -> tuple[str, Panel, float]:
    """The panel of one defect, or of true points, and the seconds it took; all randomness from the key."""
    name, key = work
    torch.set_num_threads(1)
    mixture = anisotropic(64, modes=16)
    size = 5000 if name == NULL else DEFECTS[name].size
    real = mixture.sample(4 * size, generator(key, 0))[0]
    train = mixture.sample(500, generator(key, 1))[0]  # the very samples that a memory, drawn alike, remembers
    made = (mixture.sample(size, generator(key, 2))[0] if name == NULL
            else DEFECTS[name].draw(mixture, size, generator(key, 1)))
    start = time.perf_counter()
    found = panel(made, real, log_prob=mixture.log_prob, mode=mixture.mode, train=train, seed=key)
    return name, found, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nulls", type=int, default=24, help="panels of true points")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    largest_first = sorted(DEFECTS, key=lambda name: -DEFECTS[name].size)
    work = [(name, 1000 + i) for i, name in enumerate(largest_first)] + [(NULL, i) for i in range(arguments.nulls)]
    found = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for result in as_completed([pool.submit(judge, item) for item in work]):
            found.append(result.result())
            name, seen, seconds = found[-1]
            flags = ", ".join(f"{row.name} {row.z:.1f}" for row in seen.flagged)
            print(f"[{seconds:.0f} s] {name}: {flags or '-'}", flush=True)
    Console(width=200).print(defects_table([f for f in found if f[0] != NULL]))
    nulls = [p for name, p, _ in found if name == NULL]
    flagged = [(row.name, round(row.z, 1)) for p in nulls for row in p.flagged]
    rows = sum(len(p.rows) for p in nulls)
    accused = sum(bool(p.flagged) for p in nulls)
    print(f"{NULL}: {len(flagged)} of {rows} rows, {accused} of {len(nulls)} panels: {flagged}")
    missed = [name for name, p, _ in found if name != NULL and not p.flagged]
    print(f"missed: {', '.join(missed) or 'none'}; {mean(t for *_, t in found):.0f} s a panel")


def defects_table(found: list[tuple[str, Panel, float]]) -> Table:
    """z of every metric (rows) for every defect (columns)."""
    table = Table("metric", *(f"{name}, {p.size:,}" for name, p, _ in found))
    for row in found[0][1].rows:
        zs = [p[row.name].z for _, p, _ in found]
        table.add_row(row.name, *(f"[bold]{z:.1f}[/]" if abs(z) >= 5 else f"{z:.1f}" for z in zs))
    return table


if __name__ == "__main__":
    main()

"""Does a world that never learned from noisy history wear out sooner?  Two trainings a seed, long rollouts of both.

    python benchmarks/world_history.py [--out FOLDER] [--seeds 0 1 2] [--field value]

Other options go to `fromnoise train breakout`, of both alike.  "with" is the recipe: train.frames.noise 0.2, and frames
are remembered at sample.keep.history 0.05; "without" has 0 for both.  What is there already goes on, or is left alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fromnoise.cli import main as fromnoise
from fromnoise.worlds.measure import Measured
from fromnoise.worlds.measure.report import FOLDER, NAME

VARIANTS = {"with": ("0.2", "0.05"), "without": ("0", "0")}
COLUMNS = ("stability: late over early", "feature distance, early", "feature distance, late",
           "PSNR, frame 16 of a free rollout")


def measured(out: Path, noise: str, history: str, more: list[str]) -> Measured:
    """Train a variant and measure it."""
    commands = (["train", "breakout", "--out", str(out), "--train.frames.noise", noise, "--sample.keep.history",
                 history, *more],
                ["worlds", "measure", str(out)])
    for command in commands:
        print("fromnoise", shlex.join(command), flush=True)
        if code := fromnoise(command):
            raise SystemExit(code)
    return Measured.from_dict(json.loads((out / FOLDER / NAME).read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/history"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args, more = parser.parse_known_args()
    table = Table("history", "seed", *COLUMNS)
    for seed in args.seeds:
        for name, levels in VARIANTS.items():
            found = measured(args.out / f"{name}-{seed}", *levels, ["--seed", str(seed), *more])
            table.add_row(name, str(seed), *(found[column].words()[0] for column in COLUMNS))
    Console().print(table)


if __name__ == "__main__":
    main()

"""Does a world that never learned from noisy history wear out sooner?  Four trainings a seed, long rollouts of all.

    python benchmarks/world_history.py [--out FOLDER] [--seeds 0 1 2] [--field value]

Other options go to `fromnoise train breakout`, of all alike.  History has noise in two ways: frames that are given have
a level up to 0.2 (and are remembered at 0.05), and those that are not have each a level of its own, at which later ones
see them (Diffusion Forcing).  "with" is the recipe, which has both; "levels alone" gives and remembers frames as they
are; "given alone" gives noisy first frames, and the others share one level; "without" has neither: a next frame is
learned from clean history alone (teacher forcing).  What is there already goes on, or is left alone.
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

CLEAN = ["--train.frames.noise", "0", "--sample.keep.history", "0"]
SHARED = ["--train.frames.clock", "one", "--train.frames.prefix", "1", "--train.frames.random", "0"]
VARIANTS = {"with": [], "levels alone": CLEAN, "given alone": SHARED, "without": [*CLEAN, *SHARED]}
COLUMNS = ("stability: late over early", "feature distance, early", "feature distance, late",
           "PSNR, next frame", "PSNR, frame 16 of a free rollout")


def measured(out: Path, fields: list[str]) -> Measured:
    """Train a variant and measure it."""
    commands = (["train", "breakout", "--out", str(out), *fields],
                ["worlds", "measure", str(out), "--rollouts", "16"])
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
        for name, fields in VARIANTS.items():
            out = args.out / f"{name.replace(' ', '-')}-{seed}"
            found = measured(out, [*fields, "--seed", str(seed), *more])
            table.add_row(name, str(seed), *(found[column].words()[0] for column in COLUMNS))
    Console().print(table)


if __name__ == "__main__":
    main()

"""Diffusion forcing against full-sequence training, in rollouts of four times the length of training, on ``moving``.

    python benchmarks/forcing.py                     # three seeds, one run at a time, some 35 core-minutes in all
    python benchmarks/forcing.py --seeds 1 --steps 300
    python benchmarks/forcing.py --report            # the table of the runs that are done

One thing that moves without gravity and bounces, 8 frames of 24 px at 5 a second, nearly always without its caption.
Three trainings of the same network from the same start on the same clips: one clock and nothing given (full sequence),
one clock and the beginnings of clips given (tasks), and a clock for each frame (diffusion forcing).  Each goes on from
the first four frames of held-out clips to 32 frames, window by window with four known.  Measured are the pixels between
where the oracle sees the thing and where it should be, the share of frames in which it sees it, and the share of clips
in which it stays what it is.  The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import fromnoise
from fromnoise.compare import Job, run_jobs
from fromnoise.compare.outcome import core_seconds, summarise
from fromnoise.data.moving import Moving
from fromnoise.data.universe import watch
from fromnoise.denoise import Reconstructed
from fromnoise.evaluate.motion import astray
from fromnoise.evaluate.real import films
from fromnoise.given import Given
from fromnoise.nets import house
from fromnoise.process import Frames
from fromnoise.recipe import Evaluation, Recipe
from fromnoise.recipes import moving
from fromnoise.sample import Autoregressive

STEPS, WINDOW, KNOWN, LONG, CLIPS = 1600, 8, 4, 32, 64
DATA = Moving(frames=WINDOW, fps=5, height=24, width=24, gravity="off")
TRAININGS = {"full sequence": Frames(), "tasks": Frames(first=0.1, prefix=0.5), "forcing": Frames(clock="each")}
ROLLOUTS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "full sequence": [("held", {}), ("reconstructed, weight 4", {"keep": Reconstructed(weight=4)})],
    "tasks": [("held", {}), ("held, autoregressive", {"schedule": Autoregressive()})],
    "forcing": [("held", {}), ("held, autoregressive", {"schedule": Autoregressive()})],
}
PARTS = {"4-7": slice(4, 8), "8-15": slice(8, 16), "16-31": slice(16, 32)}  # frames


def recipe_of(frames: Frames, seed: int, steps: int) -> Recipe:
    base = moving()
    train = replace(base.train, steps=steps, threads=1, preview_every=0, text_dropout=0.95, frames=frames)
    return replace(base, seed=seed, data=DATA, net=house(patch=8, width=96, depth=3), train=train,
                   evaluate=Evaluation(samples=2, tasks=0))


def jobs_of(out: Path, seeds: int, steps: int) -> list[Job]:
    return [Job(name, recipe_of(frames, seed, steps), out / f"{name.replace(' ', '-')}-{seed}")
            for seed in range(seeds) for name, frames in TRAININGS.items()]


def measured(job: Job) -> dict[str, dict[str, float]]:
    """What the rollouts of a finished run measure, by their names; kept beside the run."""
    path = job.out.with_suffix(".rollouts.json")
    if path.exists():
        return json.loads(path.read_text())
    model, (true, prompts) = fromnoise.load(job.out, "cpu"), films(replace(DATA, frames=LONG).open("test"), CLIPS)
    found = {}
    for name, choices in ROLLOUTS[job.variant]:
        made = model.rollout([""] * CLIPS, LONG, KNOWN, given=Given(true[:, :KNOWN]), guidance=1.0, steps=12,
                             **choices).media
        found[name] = judged(made, true, prompts)
    path.write_text(json.dumps(found))
    return found


def judged(made: torch.Tensor, true: torch.Tensor, prompts: list[str]) -> dict[str, float]:
    """Pixels off and share of frames in which the thing is seen, of each part; share of clips in which it is steady."""
    away, found = astray(made, true, prompts), {}
    for part, frames in PARTS.items():
        seen = away[:, frames][np.isfinite(away[:, frames])]
        found[f"px, {part}"] = float(seen.mean()) if len(seen) else float("nan")
        found[f"seen, {part}"] = len(seen) / away[:, frames].size
    return found | {"steady": float(np.mean([clip.steady for clip in watch(made, DATA.fps)]))}


def row(done: Sequence[Job], rollout: str) -> list[str]:
    """What the finished runs of a training say of one kind of rollout, over seeds."""
    found = [measured(job)[rollout] for job in done]
    seen = {name: [one[name] for one in found if np.isfinite(one[name])] for name in found[0]}
    cells = [summarise(values, ".2f" if name.startswith("px") else ".0%") for name, values in seen.items()]
    return [done[0].variant, rollout, str(len(done)), f"{statistics.fmean(map(core_seconds, done)):,.0f}",
            *(cell.words() for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/forcing"))
    parser.add_argument("--report", action="store_true", help="train nothing more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    jobs = jobs_of(arguments.out, arguments.seeds, arguments.steps)
    if not arguments.report:
        run_jobs(jobs, arguments.jobs, lambda job, what: print(f"{job.out.name}: {what}", flush=True))
    true, prompts = films(replace(DATA, frames=LONG).open("test"), CLIPS)
    still = true[:, [KNOWN - 1]].expand(-1, LONG, -1, -1, -1)
    head = list(judged(still, true, prompts))
    table = Table("trained with", "rollout", "seeds", "core-seconds", *head)
    floor = [f"{value:.2f}" if name.startswith("px") else f"{value:.0%}"
             for name, value in judged(still, true, prompts).items()]
    found = [["", "the last given frame held", "", "", *floor]]
    for name in TRAININGS:
        if done := [job for job in jobs if job.variant == name and job.report() is not None]:
            found += [row(done, rollout) for rollout, _ in ROLLOUTS[name]]
    for cells in found:
        print("| " + " | ".join(cells) + " |", flush=True)
        table.add_row(*cells)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()

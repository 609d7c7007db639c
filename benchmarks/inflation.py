"""An image model inflated to films against a film model from scratch, for equal operations, on ``moving``.

    python benchmarks/inflation.py                    # three seeds, two runs at a time, some 65 core-minutes in all
    python benchmarks/inflation.py --seeds 1 --jobs 1 --steps 200
    python benchmarks/inflation.py --report           # the table of the runs that are done

The network has layers along time behind every block.  From scratch all of it learns films.  The image model is the same
network without these layers, trained on single frames of the same clips with a third of the operations; then layers
along time are added, and all of it is trained, or these alone.  "counted": the image model and the films together have
the operations of the model from scratch;  "not counted": the films alone have them, as where an image model is at hand.
The loss is that of the averaged weights on held-out clips at even strata of the times; the rest is what
``fromnoise evaluate`` says.  The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import fromnoise
from fromnoise.compare import Job, operations, run_jobs, same_operations
from fromnoise.compare.outcome import core_seconds, summarise
from fromnoise.generate import Model
from fromnoise.nets import house
from fromnoise.random import sample_noise
from fromnoise.recipe import Evaluation, Recipe
from fromnoise.recipe.training import Start
from fromnoise.recipes import moving

STEPS, PICTURES, SHARE = 800, 64, 1 / 3  # steps on films from scratch; pictures in a step; of the work, for pictures
VARIANTS = {  # what is trained after the image model, and whether that counts; None: from scratch
    "from scratch": None,
    "inflated, counted": ("all", True),
    "inflated, along time alone, counted": ("temporal", True),
    "inflated, not counted": ("all", False),
    "inflated, along time alone, not counted": ("temporal", False),
}
MEASURES = ("things", "what they do", "steady things", "unclear clips", "Frechet distance of films")
CLIPS, AT_ONCE = 256, 64  # held-out clips of the loss


def film(steps: int) -> Recipe:
    """The model of films from scratch."""
    base = moving()
    net = replace(house(patch=8, width=96, depth=3), cross=3, single=0)
    train = replace(base.train, steps=steps, threads=1, preview_every=0)
    return replace(base, net=replace(net, temporal=replace(net.temporal, every=1)), train=train,
                   evaluate=Evaluation(samples=128))


def picture(scratch: Recipe) -> Recipe:
    """The model of single frames."""
    net = replace(scratch.net, temporal=replace(scratch.net.temporal, every=0))
    train = replace(scratch.train, stills=1.0, batch=PICTURES)
    recipe = replace(scratch, net=net, train=train, evaluate=Evaluation(samples=2))
    return same_operations(recipe, SHARE * operations(scratch))  # type: ignore[return-value]


def inflated(scratch: Recipe, image: Path, only: str, counted: bool) -> Recipe:
    """The model of films that begins as the image model in a folder."""
    recipe = same_operations(scratch, (1 - SHARE if counted else 1.0) * operations(scratch))
    return replace(recipe, train=replace(recipe.train, start=Start(run=str(image)), only=only))  # type: ignore


def jobs_of(out: Path, seed: int, steps: int) -> tuple[Job, list[Job]]:
    """(the image model, the models of films) of a seed."""
    scratch = replace(film(steps), seed=seed)
    first = Job("image model", picture(scratch), out / f"image-{seed}")
    jobs = []
    for i, (name, how) in enumerate(VARIANTS.items()):
        recipe = scratch if how is None else inflated(scratch, first.out, *how)
        jobs.append(Job(name, recipe, out / f"films-{i}-{seed}"))
    return first, jobs


@torch.no_grad()
def loss(model: Model) -> float:
    """The loss of the recipe's objective on held-out clips, at even strata of its times."""
    recipe, source, found = model.recipe, model.recipe.data.open("test"), []
    times = recipe.objective.times.times((torch.arange(CLIPS) + 0.5) / CLIPS, recipe.path)
    for rows in torch.arange(CLIPS).split(AT_ONCE):
        batch = source.batch(rows.tolist(), rows.tolist())
        t, eps = times[rows][:, None], sample_noise(batch.media.shape, 1, int(rows[0]))
        told = replace(model.encode(batch.text), fps=torch.full((len(rows),), recipe.fps))
        said = model.system.denoiser.output(recipe.path.add_noise(batch.media, eps, t), t, told)
        found.append(recipe.objective.losses(said, batch.media, eps, t, recipe.path).mean())
    return float(torch.stack(found).mean())


def tell(job: Job, what: str) -> None:
    print(f"{job.out.name} ({job.variant}): {what}", flush=True)


def row(done: Sequence[Job]) -> list[str]:
    """What the finished runs of a variant say, over seeds."""
    recipe, reports = done[0].recipe, [report for job in done if (report := job.report())]
    losses = summarise([loss(fromnoise.load(job.out, "cpu")) for job in done], ".4f")
    cells = [summarise([report[name] for report in reports], next(r.format for r in reports[0].rows if r.name == name))
             for name in MEASURES]
    return [done[0].variant, str(len(done)), f"{recipe.train.steps:,}", f"{operations(recipe):.2e}",
            f"{statistics.fmean(map(core_seconds, done)):,.0f}", losses.words(), *(cell.words() for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the model from scratch")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/inflation"))
    parser.add_argument("--report", action="store_true", help="train nothing more")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [jobs_of(arguments.out.resolve(), seed, arguments.steps) for seed in range(arguments.seeds)]
    if not arguments.report:
        run_jobs([first for first, _ in seeds], arguments.jobs, tell)
        run_jobs([job for _, jobs in seeds for job in jobs], arguments.jobs, tell)
    table = Table("variant", "seeds", "steps", "operations", "core-seconds", "loss", *MEASURES)
    for name in VARIANTS:
        if done := [job for _, jobs in seeds for job in jobs if job.variant == name and job.report() is not None]:
            cells = row(done)
            print("| " + " | ".join(cells) + " |", flush=True)
            table.add_row(*cells)
    pictures = [first for first, _ in seeds if first.report() is not None]
    print(f"image model: {pictures[0].recipe.train.steps:,} steps, {operations(pictures[0].recipe):.2e} operations, "
          f"{statistics.fmean(map(core_seconds, pictures)):,.0f} core-seconds" if pictures else "no image model yet")
    Console(width=200).print(table)


if __name__ == "__main__":
    main()

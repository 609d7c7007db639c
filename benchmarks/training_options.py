"""What options of training are worth on ``shapes``, each beside the same recipe without it.

    python benchmarks/training_options.py                        # every row, 500 steps each
    python benchmarks/training_options.py baseline dispersive --steps 300 --seeds 2 --jobs 2
    python benchmarks/training_options.py --teacher runs/shapes  # the run that REPA learns from; else the baseline

A row of ``OPTIONS`` is what stands behind ``fromnoise train shapes`` on the command line.  All rows of a seed have the
same initial weights, data, times and noise.  Measured are the averaged weights, on held-out scenes with fixed noise:
the loss of the baseline, whatever the row was trained with; the squared error of x0 at a log-SNR of -3, with the right
caption and with another; and, of samples, in how many both colours of the caption are seen and in how many their
centres lie as it says.
"""

from __future__ import annotations

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import fromnoise
from fromnoise.cli.train import resolve
from fromnoise.data.universe.captions import parse
from fromnoise.data.universe.oracle import SEEN
from fromnoise.data.universe.render import BACKGROUND, PALETTE
from fromnoise.data.universe.scene import COLORS
from fromnoise.generate import Model
from fromnoise.random import sample_noise
from fromnoise.recipes import shapes
from fromnoise.train import train
from fromnoise.train.metrics import read_metrics

BASELINE = "baseline"
REPA = "--train.repa.weight 0.5 --train.repa.width 256 --train.repa.teacher {teacher}"
OPTIONS: dict[str, str] = {
    BASELINE: "",
    "REPA": REPA,
    "iREPA": f"{REPA} --train.repa.projector conv --train.repa.spatial-norm",
    "dispersive, l2": "--train.dispersive.weight 0.5",
    "dispersive, cosine": "--train.dispersive.weight 0.5 --train.dispersive.distance cosine",
    "contrastive": "--train.contrastive.weight 0.05",
    "direction": "--train.direction.weight 1",
}
SCENES, SAMPLES = 512, 128
NAMED = 16  # pixels of one colour from which on it is seen; a small object covers about 35


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*OPTIONS, []], help="rows to run; all by default")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--teacher", help="a run folder; by default that of the baseline")
    parser.add_argument("--out", type=Path, default=Path("runs/training_options"))
    arguments = parser.parse_args()
    names = arguments.rows or list(OPTIONS)
    table = Table("option", "seed", "core-seconds", "loss", "error of x0: right, another caption", "both colours",
                  "relation")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for stage in (names[:1] if BASELINE in names else [], [name for name in names if name != BASELINE]):
            work = [(name, seed, arguments) for name in stage for seed in range(arguments.seeds)]
            for row in pool.map(measured, work):
                print("  ".join(row), flush=True)
                table.add_row(*row)
    Console(width=160).print(table)


def measured(work: tuple[str, int, argparse.Namespace]) -> tuple[str, ...]:
    """A row of the table: trained, unless that was done before, and measured."""
    name, seed, arguments = work
    torch.set_num_threads(1)
    folder = run_folder(arguments.out, name, seed)
    teacher = arguments.teacher or run_folder(arguments.out, BASELINE, seed)
    option = OPTIONS[name].format(teacher=Path(teacher).resolve()).split()
    steps = str(arguments.steps)
    recipe, _, _ = resolve(["shapes", *option, "--seed", str(seed), "--train.steps", steps, "--train.checkpoint-every",
                            steps, "--train.preview-every", "0", "--train.threads", "1"])
    train(recipe, folder)
    model = fromnoise.load(folder, "cpu")
    right, other = errors(model)
    colours, relation = reading(model)
    return (name, str(seed), f"{read_metrics(folder / 'metrics.jsonl')[-1]['core_seconds']:.0f}", f"{loss(model):.4f}",
            f"{right:.4f}, {other:.4f}", f"{colours:.0%}", f"{relation:.0%}")


def run_folder(out: Path, name: str, seed: int) -> Path:
    return out / f"{name.replace(', ', '-')}-{seed}"


@torch.no_grad()
def loss(model: Model) -> float:
    """The loss of the baseline's objective, at even strata of its times."""
    objective, path, batch = shapes().objective, model.recipe.path, held_out()
    t = objective.times.times((torch.arange(SCENES) + 0.5) / SCENES, path)[:, None]
    x0, eps = batch.media, sample_noise(batch.media.shape, 1)
    said = model.system.denoiser(path.add_noise(x0, eps, t), t, model.encode(batch.text))
    return float(objective.losses(said, x0, eps, t, path).mean())


@torch.no_grad()
def errors(model: Model) -> tuple[float, float]:
    """Squared errors of x0 at a log-SNR of -3, with the right caption and with another."""
    path, batch = model.recipe.path, held_out()
    t = path.time(torch.tensor(-3.0)).expand(SCENES, 1)
    x0, eps = batch.media, sample_noise(batch.media.shape, 2)
    x = path.add_noise(x0, eps, t)
    right, other = (float((model.system.denoiser(x, t, model.encode(text)) - x0).square().mean())
                    for text in (batch.text, [*batch.text[1:], batch.text[0]]))
    return right, other


def held_out():
    """Scenes that no row was trained on."""
    return shapes().data.open("test").batch(range(SCENES), [0] * SCENES)


def reading(model: Model) -> tuple[float, float]:
    """Of captions with two colours, the shares of samples with both of them, and with their centres as was said."""
    sentences = [parse(text) for text in held_out().text]
    sentences = [s for s in sentences if s.things[0].color != s.things[1].color][:SAMPLES]
    images = model.sample([str(s) for s in sentences], seed=0).media[:, 0]
    found = [centres(image, [thing.color for thing in s.things]) for image, s in zip(images, sentences, strict=True)]
    both = [pair for pair in found if pair is not None]
    right = [lies(s.relations[0], pair) for s, pair in zip(sentences, found, strict=True) if pair is not None]
    return len(both) / len(sentences), sum(right) / len(sentences)


def centres(image: Tensor, colours: list[str]) -> list[tuple[float, float]] | None:
    """(x, y) of the pixels nearest to each colour of the palette; None where one has too few."""
    seen = (image - BACKGROUND[:, None, None]).norm(dim=0) > SEEN
    nearest = (image[None] - PALETTE[:, :, None, None]).norm(dim=1).argmin(0)
    places = [(seen & (nearest == COLORS.index(colour))).nonzero().float() for colour in colours]
    if min(map(len, places)) < NAMED:
        return None
    return [(float(p[:, 1].mean()), float(p[:, 0].mean())) for p in places]


def lies(relation: str, pair: list[tuple[float, float]]) -> bool:
    """Whether the first lies to the second as the words say, more along that axis than across it."""
    (ax, ay), (bx, by) = pair
    dx, dy = bx - ax, by - ay
    along, across = {"above": (dy, dx), "below": (-dy, dx), "left of": (dx, dy), "right of": (-dx, dy)}[relation]
    return along > math.fabs(across)


if __name__ == "__main__":
    main()

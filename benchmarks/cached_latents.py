"""Training on latents that were kept against encoding the same pictures in every step, side by side in one run.

    python benchmarks/cached_latents.py

Both train the same model from the same start on the same pictures, step for step in turns, so that a busy machine slows
both alike; medians are compared.  The autoencoder's weights are random, which changes nothing about its cost.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fromnoise.data.shapes import Shapes
from fromnoise.latents import KL
from fromnoise.nets import house
from fromnoise.recipe import Encoding, Recipe
from fromnoise.recipes import shapes
from fromnoise.train.loop import Hooks, Trainer
from fromnoise.weights import digest

STEPS, EXAMPLES = 16, 256
CODERS = {  # side of the pictures: an autoencoder of a laptop's size for them
    32: KL(widths=(32, 48, 64), depth=1, groups=8, attention=False),
    64: KL(widths=(32, 48, 64, 64), depth=1, groups=8, attention=False),
}


def main() -> None:
    torch.set_num_threads(1)
    table = Table("pictures", "encoding anew, images/s", "kept, images/s", "ratio", "loader's share, anew", "kept",
                  "largest difference of a loss")
    for side, coder in CODERS.items():
        for draw in (False, True):
            name = f"{side} px, {'draws' if draw else 'means'}"
            table.add_row(name, *compare(replace(shapes(), data=Shapes(objects=2, height=side, width=side),
                                                 latents=coder, net=house(patch=1, width=96, depth=4)), draw))
    Console().print(table)


def compare(recipe: Recipe, draw: bool) -> tuple[str, ...]:
    """A row of the table."""
    torch.manual_seed(0)
    weights: Any = recipe.latents.build(3).state_dict()
    encoding = Encoding(source="random", sha256=digest(weights, {}), draw=draw, examples=EXAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        anew, kept = (Trainer(replace(recipe, encoding=replace(encoding, cached=cached)), Path(folder) / "run", Hooks(),
                              autoencoder=lambda: weights) for cached in (False, True))
        kept.encode_data()
        times: dict[str, list[float]] = {}
        losses = [(timed(times, "anew", anew), timed(times, "kept", kept)) for _ in range(STEPS)]
        batch = recipe.train.batch
        step = {name: median(times[name][2:]) for name in times}
        difference = max(abs(a - b) / abs(a) for a, b in losses)
        return (f"{batch / step['anew']:.0f}", f"{batch / step['kept']:.0f}", f"{step['anew'] / step['kept']:.2f}",
                *(f"{step[f'{name}, loader'] / step[name]:.1%}" for name in ("anew", "kept")), f"{difference:.1e}")


def timed(times: dict[str, list[float]], name: str, trainer: Trainer) -> float:
    """The loss of the next step; its time, and that of its batch, go to ``times``."""
    batch, loading = measure(lambda: trainer.fetch(trainer.step))
    loss, training = measure(lambda: float(trainer.train_step(batch)))
    trainer.step += 1
    times.setdefault(name, []).append(loading + training)
    times.setdefault(f"{name}, loader", []).append(loading)
    return loss


def measure(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and its seconds."""
    start = time.perf_counter()
    found = work()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()

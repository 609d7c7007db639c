"""Ratios against bare torch, each pair measured side by side in one run.

    make bench          or: python benchmarks/bench.py

Pairs are interleaved and medians compared, so that a busy machine slows both sides alike.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from fromnoise.generate import Model
from fromnoise.recipes import digits, shapes
from fromnoise.train.loop import Hooks, Trainer


def pair(ours: Callable[[], object], bare: Callable[[], object], repeats: int = 40) -> tuple[float, float]:
    """Median seconds of each, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats + 3):
        for which, work in enumerate((ours, bare)):
            start = time.perf_counter()
            work()
            if i >= 3:
                times[which].append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def main() -> None:
    torch.set_num_threads(1)
    table = Table("recipe", "what", "ours", "bare", "ratio", "goal")
    for make in (digits, shapes):
        with tempfile.TemporaryDirectory() as folder:
            recipe = make()
            trainer = Trainer(recipe, Path(folder), Hooks())
            for row in (training_step(trainer), sampling(trainer), loader(trainer)):
                table.add_row(recipe.name, *row)
    Console().print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"peak memory of this process: {peak:.0f} MiB; one thread")


def training_step(trainer: Trainer) -> tuple[str, ...]:
    """A whole step (loader, loss, clipping, rates, average) against forward, backward and optimiser alone."""
    batch = trainer.fetch(0)
    system, path = trainer.system, trainer.recipe.path
    t, eps = torch.rand(len(batch), 1), torch.randn_like(batch.media)
    tokens, mask = system.text.tokenize(batch.text)

    def bare() -> None:
        condition = system.text(tokens, mask)
        output = system.denoiser.net(path.add_noise(batch.media, eps, t), t, condition)
        (output - batch.media).square().mean().backward()
        for optimizer in trainer.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return ratio("training step", *pair(lambda: trainer.train_step(trainer.fetch(0)), bare), goal="1.05")


def sampling(trainer: Trainer) -> tuple[str, ...]:
    """``Model.sample`` in 20 steps against 20 bare network calls."""
    model = Model(trainer.system)
    prompts = model.recipe.data.open("test").prompts()[:8]
    condition = model.encode(prompts)
    x = model.starting_noise(prompts)
    t = torch.full(x.shape[:2], 0.5)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(20):
            model.system.denoiser.net(x, t, condition)

    times = pair(lambda: model.sample(prompts, steps=20, guidance=1.0), bare, 15)
    return ratio("20-step sampling", *times, goal="1.03")


def loader(trainer: Trainer) -> tuple[str, ...]:
    """The loader against a whole step without it."""
    trainer.system.train()
    batch = trainer.fetch(0)
    steps = iter(range(10**9))
    ours, step = pair(lambda: trainer.fetch(next(steps)), lambda: trainer.train_step(batch))
    return ratio("loader's share of a step", ours, step, goal="0.03")


def ratio(name: str, ours: float, bare: float, goal: str) -> tuple[str, ...]:
    return name, f"{ours * 1e3:.2f} ms", f"{bare * 1e3:.2f} ms", f"{ours / bare:.3f}", f"<= {goal}"


if __name__ == "__main__":
    main()

"""What runs on ``shapes`` show in pictures that the oracle calls unclear: colours, and where they lie.

    python benchmarks/coarse.py runs/compare/shapes/runs    # of NAME-SEED, as fromnoise compare leaves them

A model that has not trained long draws blobs, of which the oracle reads nothing.  Of held-out captions with two colours
are told, coarsely (``training_options.reading``), the shares of samples in which both are seen and in which their
centres lie as was said: with the right caption, and of the same pictures with the next one's caption, which is chance;
and the squared error of x0 at a log-SNR of -3, with the right caption and with another.  Mean and standard error over
the seeds of each name.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from training_options import SAMPLES, centres, errors, held_out, lies

import fromnoise
from fromnoise.data.universe.captions import Sentence, parse

NAMES = ("both colours", "relation", "by chance", "by chance", "error of x0", "another caption")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a folder of runs")
    parser.add_argument("--names", nargs="*", help="those alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for run in sorted(path for path in args.runs.iterdir() if (path / "evaluation.json").is_file()):
        name, _, _ = run.name.rpartition("-")
        if not args.names or name in args.names:
            found[name].append(measured(run))
            print(json.dumps({run.name: found[name][-1]}), flush=True)
    print(f"| run | seeds | {' | '.join(NAMES)} |\n|{' --- |' * (len(NAMES) + 2)}")
    for name, rows in sorted(found.items(), key=lambda item: -np.mean(item[1], 0)[1]):
        print(f"| {name} | {len(rows)} | {' | '.join(cells(np.array(rows)))} |")


def measured(run: Path) -> tuple[float, ...]:
    """A run's numbers, in the order of ``NAMES``."""
    model = fromnoise.load(run, "cpu")
    sentences = [parse(text) for text in held_out().text]
    sentences = [s for s in sentences if s.things[0].color != s.things[1].color][:SAMPLES]
    images = model.sample([str(s) for s in sentences], seed=0).media[:, 0]
    return (*reading(images, sentences), *reading(images, [*sentences[1:], sentences[0]]), *errors(model))


def reading(images: torch.Tensor, sentences: list[Sentence]) -> tuple[float, float]:
    """The shares of images with both colours of their sentences, and with their centres as was said."""
    pairs = [centres(image, [thing.color for thing in s.things]) for image, s in zip(images, sentences, strict=True)]
    right = [pair is not None and lies(s.relations[0], pair) for s, pair in zip(sentences, pairs, strict=True)]
    return float(np.mean([pair is not None for pair in pairs])), float(np.mean(right))


def cells(rows: np.ndarray) -> list[str]:
    """Mean and standard error of each column."""
    error = rows.std(0, ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else np.zeros(rows.shape[1])
    mean = rows.mean(0)
    return [f"{100 * m:.1f} ± {100 * e:.1f} %" if i < 2 else f"{m:.0%}" if i < 4 else f"{m:.4f}"
            for i, (m, e) in enumerate(zip(mean, error, strict=True))]


if __name__ == "__main__":
    main()

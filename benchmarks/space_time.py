"""Joint against factorised attention over films: time and operations side by side.

    python benchmarks/space_time.py [--frames 16] [--width 96] [--repeats 9]

One thread; 64 tokens a frame.  All networks take turns, CPU time of the process is measured, and the median of the
ratios to joint attention over all frames counts.  "pictures" is the network without layers along time, which sees each
frame alone: what is above it is their cost.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fromnoise.nets import count, house
from fromnoise.nets.trunk import Rotary, Trunk
from fromnoise.nets.trunk.settings import Temporal
from fromnoise.types import Condition

CHANNELS, SIDE, WORDS, TEXT = 3, 32, 16, 96


def variants(width: int) -> dict[str, Trunk]:
    """Four blocks each.  The house's learned biases of offsets are left to a row of their own: joint attention pays for
    them with every pair of tokens."""
    relative = house(width)
    joint = replace(relative, positions=Rotary(theta=100.0, corner=1))
    return {
        "joint": joint,
        "factorised": replace(joint, temporal=Temporal(every=1)),
        "factorised, every second block": replace(joint, temporal=Temporal(every=2)),
        "factorised, with feed-forward": replace(joint, temporal=Temporal(every=1, ratio=4.0)),
        "pseudo-3D (kernel 3)": replace(joint, temporal=Temporal(every=1, kernel=3)),
        "joint, learned offsets": relative,
        "factorised, learned offsets": replace(relative, temporal=Temporal(every=1)),
    }


def seconds(net: nn.Module, given: tuple[Tensor, Tensor, Condition], backward: bool) -> float:
    """CPU time of one forward, or one forward and backward."""
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        y = net(*given)
        if backward:
            y.square().mean().backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    specs = variants(args.width)
    nets = {name: spec.build(CHANNELS, TEXT) for name, spec in specs.items()}
    x, t = torch.randn(1, args.frames, CHANNELS, SIDE, SIDE), torch.rand(1, args.frames)
    told = Condition(torch.randn(1, WORDS, TEXT))
    given = dict.fromkeys(nets, (x, t, told))
    nets = {"pictures": nets["joint"], **nets}
    given["pictures"] = (x.transpose(0, 1), t.T, told.of_frames(args.frames))
    took: dict[tuple[str, bool], list[float]] = {(name, back): [] for name in nets for back in (False, True)}
    for repeat in range(args.repeats + 1):  # the first warms up
        for name, back in took:
            spent = seconds(nets[name], given[name], back)
            if repeat:
                took[name, back].append(spent)
    table = Table("attention", "multiply-adds", "forward", "to joint", "and backward", "to joint")
    for name in nets:
        work = count(specs.get(name, specs["joint"]), CHANNELS, (SIDE, SIDE), TEXT, WORDS,
                     frames=1 if name == "pictures" else args.frames).multiply_adds
        work *= args.frames if name == "pictures" else 1
        cells = []
        for back in (False, True):
            ratios = [a / b for a, b in zip(took[name, back], took["joint", back], strict=True)]
            cells += [f"{1000 * median(took[name, back]):.0f} ms", f"{median(ratios):.2f}"]
        table.add_row(name, f"{work / 1e6:,.0f} M", *cells)
    Console().print(table)


if __name__ == "__main__":
    main()

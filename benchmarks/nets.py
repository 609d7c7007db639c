"""Networks against their peers in diffusers: time over time, with the same weights and inputs.

    python benchmarks/nets.py                 # every row
    python benchmarks/nets.py sd1 --repeats 9

One thread.  Ours and theirs run in turns, so that a busy machine slows both alike, and the median of the ratios counts;
time is that of the process.  Goal: at most 0.9 of their time, never above 1.0.  A row of ``ROWS`` is a function that
returns two calls, ours and theirs, which give the same output.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import diffusers
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fromnoise.interop.unet import read_config, to_ours
from fromnoise.types import Condition

Call = Callable[[], Tensor]
Row = Callable[[], tuple[Call, Call, list[torch.nn.Module]]]

WIDE = {"block_out_channels": (96, 192, 384), "norm_num_groups": 32, "layers_per_block": 1, "cross_attention_dim": 384,
        "attention_head_dim": (3, 6, 12), "in_channels": 4, "out_channels": 4}
SD1 = {"down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
       "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D")}
SDXL = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
        "transformer_layers_per_block": (1, 1, 4)}


def unet(types: dict) -> Row:
    """A conditional U-Net at 32x32 with 77 words, batch 4."""

    def make() -> tuple[Call, Call, list[torch.nn.Module]]:
        theirs = diffusers.UNet2DConditionModel(**WIDE, **types)
        config = dict(theirs.config)
        peer = read_config(config)
        ours = peer.spec.build(peer.channels, peer.text_width)
        ours.load_state_dict(to_ours(theirs.state_dict(), config))
        x, steps, text = torch.randn(4, 1, 4, 32, 32), torch.randint(0, 1000, (4,)), torch.randn(4, 77, 384)
        t, condition = (steps / 1000)[:, None], Condition(text)
        return lambda: ours(x, t, condition)[:, 0], lambda: theirs(x[:, 0], steps, text).sample, [ours, theirs]

    return make


ROWS: dict[str, Row] = {"sd1": unet(SD1), "sdxl": unet(SDXL)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], help="rows to measure; all by default")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table = Table("network", "precision", "forward, ms", "ratio", "forward and backward, ms", "ratio", "difference")
    for name in args.rows or ROWS:
        torch.manual_seed(0)
        ours, theirs, nets = ROWS[name]()
        with torch.no_grad():
            difference = float((ours() - theirs()).abs().max())
        for precision in ("float32", "bfloat16"):
            forward = in_turns([prepared(call, nets, precision, False) for call in (ours, theirs)], args.repeats)
            both = in_turns([prepared(call, nets, precision, True) for call in (ours, theirs)], args.repeats)
            table.add_row(name, precision, *forward, *both, f"{difference:.1e}")
    Console().print(table)


def prepared(call: Call, nets: list[torch.nn.Module], precision: str, backward: bool) -> Callable[[], None]:
    """One forward pass, or a forward and a backward pass, at a precision."""

    def go() -> None:
        half = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()
        if not backward:
            with torch.no_grad(), half:
                call()
            return
        for net in nets:
            net.zero_grad(set_to_none=True)
        with half:
            output = call()
        output.float().square().mean().backward()

    return go


def in_turns(calls: list[Callable[[], None]], repeats: int) -> tuple[str, str]:
    """Median milliseconds of ours and theirs, and the median of their ratios."""
    times: list[list[float]] = [[] for _ in calls]
    for i in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.process_time()
            call()
            if i:
                taken.append(1e3 * (time.process_time() - start))
    ratio = median(a / b for a, b in zip(*times, strict=True))
    return " / ".join(f"{median(taken):.0f}" for taken in times), f"{ratio:.2f}"


if __name__ == "__main__":
    main()

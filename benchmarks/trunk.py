"""The trunk against diffusers' own classes: time and memory, with the same weights and inputs.

    python benchmarks/trunk.py [sd3|flux1|dit] [--pairs 9] [--batch 8]

One thread; CPU seconds of the process, which others on the machine slow but do not stretch; the two sides take turns
and medians are compared.  Memory is the most that tensors hold during a forward and backward, weights not counted.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
import diffusers
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fromnoise.interop.rules import take
from fromnoise.interop.transformers import FAMILIES
from fromnoise.nets.trunk.presets import dit
from fromnoise.types import Condition

WORDS, TEXT, POOLED = 77, 768, 512
Sides = tuple[nn.Module, nn.Module, Callable[[Tensor, Tensor, Condition], Tensor]]


def sd3() -> Sides:
    """Width 384, four double blocks."""
    peer = diffusers.SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=16, num_layers=4, attention_head_dim=64, num_attention_heads=6,
        joint_attention_dim=TEXT, caption_projection_dim=384, pooled_projection_dim=POOLED, out_channels=16,
        pos_embed_max_size=32, qk_norm="rms_norm")

    def run(x: Tensor, t: Tensor, c: Condition) -> Tensor:
        return peer(x, encoder_hidden_states=c.text, pooled_projections=c.pooled, timestep=t * 1000).sample

    return twin(peer), peer, run


def flux1() -> Sides:
    """Width 384, two double and four single blocks."""
    peer = diffusers.FluxTransformer2DModel(
        in_channels=64, num_layers=2, num_single_layers=4, attention_head_dim=64, num_attention_heads=6,
        joint_attention_dim=TEXT, pooled_projection_dim=POOLED, axes_dims_rope=(8, 28, 28), guidance_embeds=False)

    def run(x: Tensor, t: Tensor, c: Condition) -> Tensor:
        B, C, H, W = x.shape
        tokens = x.view(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(B, -1, 4 * C)
        where = torch.zeros(H // 2, W // 2, 3)
        where[..., 1], where[..., 2] = torch.arange(H // 2)[:, None], torch.arange(W // 2)
        return peer(tokens, encoder_hidden_states=c.text, pooled_projections=c.pooled, timestep=t,
                    img_ids=where.flatten(0, 1), txt_ids=torch.zeros(WORDS, 3)).sample

    return twin(peer), peer, run


def dit_s() -> Sides:
    """DiT at width 384, four blocks; diffusers gives each block an embedder of its own, so the weights differ."""
    peer = diffusers.DiTTransformer2DModel(num_attention_heads=6, attention_head_dim=64, in_channels=16,
                                           out_channels=32, num_layers=4, sample_size=32, num_embeds_ada_norm=1000)

    def run(x: Tensor, t: Tensor, c: Condition) -> Tensor:
        return peer(x, timestep=(t * 1000).long(), class_labels=torch.zeros(len(x), dtype=torch.long)).sample

    return dit(384, 6, 4).build(16, None, 384), peer, run


CASES: dict[str, Callable[[], Sides]] = {"sd3": sd3, "flux1": flux1, "dit": dit_s}


def twin(peer: nn.Module) -> nn.Module:
    """Our network with the weights of ``peer``."""
    for p in peer.parameters():
        nn.init.normal_(p, std=0.02)
    family, config = FAMILIES[type(peer).__name__], dict(peer.config)  # type: ignore[arg-type]
    spec = family.spec(config)
    net = spec.build(16, TEXT, POOLED)
    theirs = {k: v for k, v in peer.state_dict().items() if k not in family.tables}
    net.load_state_dict(take(theirs, family.rules(spec, config)))
    return net


def steps(case: str, precision: str, batch: int, backward: bool, pixels: int) -> list[Callable[[], None]]:
    """A step of ours and one of the peer's."""
    net, peer, run = CASES[case]()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    net, peer = net.to(dtype), peer.to(dtype)
    x, t = torch.randn(batch, 16, pixels, pixels).to(dtype), torch.rand(batch).to(dtype)
    c = Condition(text=torch.randn(batch, WORDS, TEXT).to(dtype),
                  pooled=torch.randn(batch, 384 if case == "dit" else POOLED).to(dtype))

    def step(call: Callable[[], Tensor], model: nn.Module) -> Callable[[], None]:
        def work() -> None:
            cast = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext()
            with torch.set_grad_enabled(backward), cast:
                y = call()
            if backward:
                model.zero_grad()
                y.float().square().mean().backward()
        return work

    return [step(lambda: net(x[:, None], t[:, None], c), net), step(lambda: run(x, t, c), peer)]


def timed(case: str, precision: str, batch: int, backward: bool, pairs: int, pixels: int) -> tuple[float, float]:
    """Median CPU seconds of a step, ours and theirs."""
    both = steps(case, precision, batch, backward, pixels)
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs + 1):
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.process_time()
            both[which]()
            if i:
                times[which].append(time.process_time() - start)
    return median(times[0]), median(times[1])


def memory(case: str, precision: str, batch: int, pixels: int) -> tuple[float, float]:
    """The most MiB of tensors that a first forward and backward holds at once, ours and theirs."""
    found = []
    for work in steps(case, precision, batch, True, pixels):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            work()
        assert seen.profiler is not None
        events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        held = accumulate(event.nbytes() for event in events if event.name() == "[memory]")
        found.append(max(held) / 2**20)
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pixels", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("model", "precision", "what", "ours", "diffusers", "ratio")
    for case in options.cases:
        for precision in ("fp32", "autocast", "bf16"):
            for backward in (False, True):
                ours, theirs = timed(case, precision, options.batch, backward, options.pairs, options.pixels)
                table.add_row(case, precision, "forward + backward" if backward else "forward", f"{ours * 1e3:.0f} ms",
                              f"{theirs * 1e3:.0f} ms", f"{ours / theirs:.2f}")
            ours, theirs = memory(case, precision, options.batch, options.pixels)
            table.add_row(case, precision, "peak memory", f"{ours:.0f} MiB", f"{theirs:.0f} MiB",
                          f"{ours / theirs:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

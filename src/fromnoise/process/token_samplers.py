"""Samplers of discrete processes: from noise to tokens with a denoiser ``(x_t, t [B]) -> logits [B, ..., V]``.

All randomness of sample i is a function of (seed, first + i) and of the step, so a sample is the same in any batch.
Both are exact as the number of steps grows: within a step tokens are drawn independently of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fromnoise.process.discrete import MaskedTokens, TokenDenoise, TokenProcess
from fromnoise.random import fold, uniforms

# Streams of one sample.
START, DRAW, ORDER = range(3)


@torch.no_grad()
def ancestral(process: TokenProcess, denoise: TokenDenoise, shape: Sequence[int], steps: int, seed: int = 0,
              first: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Tokens ``shape`` = ``[B, ...]`` by drawing x_s from q(x_s | x_t) at ``steps`` even steps from t = 1 to 0."""
    _positive(steps)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=device)
    x = _draw(process.noise(grid).expand(*shape, -1), _uniforms(shape, seed, first, START, 0, device))
    for step in range(steps):
        t, s = grid[step], grid[step + 1]
        probs = denoise(x, t.float().expand(shape[0])).double().softmax(-1)
        x = _draw(process.posterior(probs, x, s, t), _uniforms(shape, seed, first, DRAW, step, device))
    return x


@torch.no_grad()
def by_confidence(process: MaskedTokens, denoise: TokenDenoise, shape: Sequence[int], steps: int,
                  temperature: float = 4.5, cooling: Literal["linear", "cumulative"] = "linear", seed: int = 0,
                  first: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Tokens ``shape`` = ``[B, ...]``, the most confident first (Chang et al. 2022, MaskGIT).

    After each step the schedule says how many tokens are still masked.  All masked tokens are drawn, and those stay
    whose log-probability plus temperature times Gumbel noise is highest.  Temperature 0 is greedy;
    infinity is a random order, which with a step for each token (linear schedule) has exactly the denoiser's law.
    cooling: after step k of n the temperature is ``temperature`` (1 - k/n) as in MaskGIT, or the product of all these
    factors so far as in the loop of Show-o, which cools much faster.  ValueError for another.
    """
    _positive(steps)
    if cooling not in ("linear", "cumulative"):
        raise ValueError(f'cooling is "linear" or "cumulative" (got "{cooling}")')
    if not isinstance(process, MaskedTokens):
        raise ValueError(f"an order by confidence needs masked tokens, and these are {type(process).__name__}")
    x = torch.full(tuple(shape), process.mask, device=device)
    count = left = math.prod(shape[1:])
    product = 1.0
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        product *= s
        stay = min(left, math.floor(count * float(process.lost(torch.tensor(s, dtype=torch.float64))) + 1e-9))
        if stay == left:
            continue  # more steps than tokens
        log = denoise(x, torch.full((shape[0],), t, device=device)).double().log_softmax(-1)
        drawn = _draw(log.exp(), _uniforms(shape, seed, first, DRAW, step, device))
        gumbel = -torch.log(-torch.log(_uniforms(shape, seed, first, ORDER, step, device).clamp(min=1e-300)))
        heat = s if cooling == "linear" else product
        score = log.gather(-1, drawn[..., None])[..., 0]
        score = gumbel if math.isinf(temperature) else score + temperature * heat * gumbel
        chosen = score.masked_fill(x != process.mask, -math.inf).flatten(1).topk(left - stay, 1).indices
        x = x.flatten(1).scatter(1, chosen, drawn.flatten(1).gather(1, chosen)).view(x.shape)
        left = stay
    return x


def _draw(probs: Tensor, u: Tensor) -> Tensor:
    """The token at quantile ``u`` ``[B, ...]`` of ``probs`` ``[B, ..., S]``."""
    total = probs.double().cumsum(-1)
    return (total <= u[..., None] * total[..., -1:]).sum(-1).clamp(max=probs.shape[-1] - 1)


def _uniforms(shape: Sequence[int], seed: int, first: int, stream: int, step: int,
              device: torch.device | str) -> Tensor:
    """``shape`` draws from [0, 1) in float64."""
    keys = fold(seed, np.arange(first, first + shape[0]), stream, step)
    return torch.from_numpy(uniforms(keys, math.prod(shape[1:]))).view(tuple(shape)).to(device)


def _positive(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps should be at least 1 (got {steps})")

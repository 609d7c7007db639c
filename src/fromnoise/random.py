"""Randomness as a function of integers.

Nothing here has a state: a draw is named by (seed, step, sample, ...) and can be made again in any
order, on any number of processes, before or after a resume.  The mixer is SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Training's streams, each (seed, stream, step, ...): two that share a key would be one.
ORDER, DATA, NOISE, DROP, SELF, POSTERIOR, TERMS, ROUTE, AUGMENT, TASKS, HISTORY, ACTIONS = range(12)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fold(*parts: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """Integers (scalars or arrays that broadcast) folded into 63-bit keys; order matters."""
    with np.errstate(over="ignore"):
        key: np.ndarray = np.uint64(0)  # type: ignore[assignment]
        for part in parts:
            p = np.asarray(part).astype(np.int64).astype(np.uint64)
            key = _mix((key ^ _mix(p + _GOLDEN)) + _GOLDEN)
        return (key >> np.uint64(1)).astype(np.int64)


def uniforms(keys: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """``[B, n]`` float64 draws from [0, 1), row i a function of ``keys[i]`` alone."""
    with np.errstate(over="ignore"):
        k = np.asarray(keys, dtype=np.int64).astype(np.uint64)[:, None]
        counter = np.arange(1, n + 1, dtype=np.uint64)[None] * _GOLDEN
        return (_mix(_mix(k + _GOLDEN) + counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*parts: int) -> torch.Generator:
    """A CPU generator whose stream is a function of the integers."""
    return torch.Generator().manual_seed(int(fold(*parts)))


def sample_noise(shape: Sequence[int], seed: int, first: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal ``shape`` = ``[B, ...]``; sample i depends on (seed, first + i) alone.

    One generator a sample: a batched ``randn`` may give a sample other numbers in another batch.
    """
    return normal(fold(seed, range(first, first + shape[0])), shape[1:], dtype)


def frame_noise(shape: Sequence[int], seed: int, first: int = 0, start: int = 0) -> Tensor:
    """Standard normal ``[B, T, ...]``; frame f of sample i depends on (seed, first + i, start + f) alone."""
    B, T = shape[:2]
    keys = fold(seed, np.arange(first, first + B)[:, None], np.arange(start, start + T)[None])
    return normal(keys.reshape(-1), shape[2:]).unflatten(0, (B, T))


def normal(keys: Sequence[int] | np.ndarray, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal ``[len(keys), *shape]``, row i a function of ``keys[i]`` alone."""
    noise, source = torch.empty((len(keys), *shape), dtype=dtype), torch.Generator()
    for row, key in zip(noise, np.asarray(keys).tolist(), strict=True):
        row.normal_(generator=source.manual_seed(key))
    return noise

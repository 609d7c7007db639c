"""Scheduling matrices: which time each frame has in each row (Chen et al. 2024, Diffusion Forcing, sec. 3).

A matrix is plain data, ``[rows, T]``: row 0 is where sampling starts, and down a column a frame's time falls or is
held.  ``staggered`` makes the usual ones from one grid of falling times, and the others are settings of it; frames
that are given come in with ``among``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fromnoise.types import UserError


def staggered(times: Tensor, frames: int, delay: int, together: int = 1) -> Tensor:
    """``[rows, frames]``: each group of ``together`` frames starts ``delay`` rows after the one before it."""
    if frames < 1 or delay < 0 or together < 1:
        raise UserError("A schedule needs at least 1 frame, a delay of at least 0 and groups of at least 1 frame "
                        f"(got {frames}, {delay} and {together}).")
    late = delay * (torch.arange(frames) // together)
    rows = torch.arange(len(times) + int(late[-1]))
    return times[(rows[:, None] - late).clamp(0, len(times) - 1)]


def full_sequence(times: Tensor, frames: int) -> Tensor:
    """All frames at once, on one clock."""
    return staggered(times, frames, 0)


def autoregressive(times: Tensor, frames: int) -> Tensor:
    """One frame after the other, each finished before the next begins."""
    return staggered(times, frames, len(times) - 1)


def pyramid(times: Tensor, frames: int, delay: int = 1) -> Tensor:
    """Each frame ``delay`` rows behind the one before it: the future stays the less certain."""
    return staggered(times, frames, delay)


def chunks(times: Tensor, frames: int, size: int) -> Tensor:
    """``size`` frames at once, each chunk finished before the next begins."""
    return staggered(times, frames, len(times) - 1, size)


def overlapping(times: Tensor, frames: int, size: int, overlap: float = 0.5) -> Tensor:
    """Chunks of which each begins when the one before it has a share ``overlap`` of its steps still to go."""
    if not 0 <= overlap <= 1:
        raise UserError(f"The overlap of chunks is a share from 0 to 1 (got {overlap}).")
    return staggered(times, frames, round((1 - overlap) * (len(times) - 1)), size)


def among(matrix: Tensor, given: Sequence[bool], level: float = 0.0) -> Tensor:
    """``[rows, len(given)]``: the columns of ``matrix`` in order, between given frames that are held at ``level``.

    A level above 0 tells the network that the history it sees is not perfect, which steadies long rollouts.
    """
    mask = torch.tensor(given, dtype=torch.bool)
    if int((~mask).sum()) != matrix.shape[1]:
        raise UserError(f"The schedule has {matrix.shape[1]} frames, but {int((~mask).sum())} are not given.")
    whole = matrix.new_full((len(matrix), len(mask)), level)
    whole[:, ~mask] = matrix
    return whole


def checked_matrix(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """A user's matrix in float64, for states of a shape ``[B, T, ...]``."""
    matrix = matrix.double()
    B, T = (*shape, 1)[:2]
    if matrix.ndim not in (2, 3) or len(matrix) < 2 or matrix.shape[-1] != T or matrix.shape[1:-1] not in ((), (B,)):
        raise UserError(f"A schedule for samples [B, T, ...] of {B} x {T} frames has the shape [rows, {T}] or "
                        f"[rows, {B}, {T}], with at least 2 rows (got {list(matrix.shape)}).")
    if not bool((matrix[1:] <= matrix[:-1]).all()) or float(matrix[0].max()) > 1 or float(matrix[-1].min()) < 0:
        raise UserError("In a schedule the time of a frame falls or is held from row to row, between 1 (noise) and 0 "
                        "(clean).")
    return matrix
